"""Whether a certificate is in force, and for how long: said before clients find out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["authorities_warning", "certificate_warning"]

_SOON = timedelta(days=14)


def certificate_warning(file: Path | None, now: datetime) -> str:
    """One line where a certificate (chain) in a PEM file has expired, does so within two weeks, or is not in force yet; else, and where it
    cannot be read, nothing: whether it can be used is for who loads it to say."""
    if not (chain := _certificates(file)):
        return ""
    begin, end = max(c.not_valid_before_utc for c in chain), min(c.not_valid_after_utc for c in chain)
    renew = "put a new one in its place, it is read again without a restart"
    if end <= now:
        return f"TLS: the certificate {file} expired at {_text(end)}: clients refuse it; {renew}"
    if begin > now:
        return f"TLS: the certificate {file} is in force from {_text(begin)} on: until then clients refuse it; {renew}, or set the clock"
    if end - now < _SOON:
        return f"TLS: the certificate {file} expires at {_text(end)}; {renew}"
    return ""


def authorities_warning(file: Path | None, now: datetime) -> str:
    """One line where all authorities of client certificates in a PEM file have expired, or do so within two weeks; else, and where it
    cannot be read, nothing. One that has expired beside others is one that was followed."""
    if not (authorities := _certificates(file)):
        return ""
    end = max(c.not_valid_after_utc for c in authorities)
    renew = "put a new one in its place, it is read again without a restart"
    if end <= now:
        return f"TLS: the authority of clients {file} expired at {_text(end)}: no client's certificate is taken; {renew}"
    if end - now < _SOON:
        return f"TLS: the authority of clients {file} expires at {_text(end)}; {renew}"
    return ""


def _certificates(file: Path | None) -> list[Any]:
    if file is None:
        return []
    from cryptography import x509

    try:
        return list(x509.load_pem_x509_certificates(file.read_bytes()))
    except (OSError, ValueError):
        return []


def _text(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
