"""What all clients of HTTP here want of ``requests``: the system's certificates, and one plain line for what failed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import requests

__all__ = ["as_it_is", "certificates", "reason", "untrusted"]


def certificates() -> str | bool:
    """For ``verify=``: the system's certificates (``SSL_CERT_FILE`` chooses others), where requests would take a list of its own."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """For ``auth=``: sends the headers that were given; without it, a password in the user's .netrc would take their place."""
    return request


def reason(error: BaseException) -> str:
    """What went wrong, in the system's words: those of requests hold the address, which may be a secret, and three errors in one."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return untrusted(error) or cause.strerror
    return "timed out" if isinstance(error, requests.Timeout) else type(error).__name__


def untrusted(error: BaseException) -> str:
    """Why the other side's certificate is not trusted; empty if that is not what went wrong."""
    return next((str(c.verify_message) for c in _causes(error) if isinstance(c, ssl.SSLCertVerificationError)), "")


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
