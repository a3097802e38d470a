"""Whether a certificate is in force, and for how long: said before clients find out."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["authorities_warning", "certificate_warning", "parts_of"]

_SOON = timedelta(days=14)
_LINE = rb"[^\n]{0,253}\n|[^\n]{1,254}"
"""As OpenSSL reads them: a longer one is several."""
_BLANK = bytes([*range(33), *range(128, 256)])
"""What OpenSSL passes over at the end of a line."""
_MARK = rb"(\A|\n-----END [^\n]+\n)\xef\xbb\xbf"
"""A byte order mark, which it passes over where a file begins, and where another one was joined to it."""


def certificate_warning(file: Path | None, now: datetime) -> str:
    """One line where a certificate (chain) in a PEM file has expired, does so within two weeks, or is not in force yet; else, and where it
    cannot be read, nothing: whether it can be used is for who loads it to say."""
    if not (chain := _certificates(file)):
        return ""
    begin, end = max(c.not_valid_before_utc for c in chain), min(c.not_valid_after_utc for c in chain)
    renew = "replace the file; it is reloaded without a restart"
    if end <= now:
        return f"TLS: the certificate {file} expired at {_text(end)}: clients refuse it; {renew}"
    if begin > now:
        return f"TLS: the certificate {file} is not valid before {_text(begin)}: until then clients refuse it; {renew}, or set the clock"
    if end - now < _SOON:
        return f"TLS: the certificate {file} expires at {_text(end)}; {renew}"
    return ""


def authorities_warning(file: Path | None, now: datetime) -> str:
    """One line where no authority of client certificates in a PEM file is in force, or none will be within two weeks; else, and where it
    cannot be read, nothing. One that has expired beside others is one that was followed, one that is not in force yet is one that follows.
    """
    if not (authorities := _certificates(file)):
        return ""
    renew = "replace the file; it is reloaded without a restart"
    periods = sorted((c.not_valid_before_utc, c.not_valid_after_utc) for c in authorities)
    if later := [begin for begin, _ in periods if begin > now and not any(b <= now < e for b, e in periods)]:
        begin = _text(later[0])
        return f"TLS: the authority of clients {file} is not valid before {begin}: until then client certificates are refused; {renew}"
    end = max(end for begin, end in periods if begin <= now)
    if end <= now:
        return f"TLS: the authority of clients {file} expired at {_text(end)}: client certificates are refused; {renew}"
    for next_, its_end in periods:
        end = max(end, its_end) if next_ <= end else end
    if end - now < _SOON:
        return f"TLS: the authority of clients {file} expires at {_text(end)}; {renew}"
    return ""


def parts_of(pem: bytes) -> frozenset[bytes]:
    """What OpenSSL finds in a PEM file that it takes, and that has no NUL: comments, the order, and how lines are broken make no
    difference. What does not begin a line is a comment."""
    text = re.sub(_MARK, rb"\1", b"\n".join(line.rstrip(_BLANK) for line in re.findall(_LINE, pem)))
    parts = re.findall(rb"^-----BEGIN ([^\n]+)-----\n(.*?)^-----END \1-----", text, re.DOTALL | re.MULTILINE)
    return frozenset(kind + b":" + b"".join(body.split()) for kind, body in parts)


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
