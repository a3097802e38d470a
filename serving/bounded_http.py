"""What others answer over HTTP, within limits: no answer that is large, expands, or comes drop by drop holds who asked."""

from __future__ import annotations

import time
from collections.abc import Callable

import requests
import urllib3

__all__ = ["read_answer"]

_PIECE = 64 * 1024


def read_answer(answer: requests.Response, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> bytes:
    """The body of an answer that was asked for with ``stream=True``, decompressed: at most ``most`` + 1 bytes, so that one which is longer
    shows. Raises requests.RequestException where it is damaged, cut off, or not there within ``seconds`` (and one wait for a piece)."""
    until, body = clock() + seconds, bytearray()
    try:
        while len(body) <= most:
            piece = answer.raw.read1(min(_PIECE, most + 1 - len(body)), decode_content=True)
            if not piece:
                break
            body += piece
            if clock() > until:
                raise requests.ReadTimeout(f"its answer was not whole within {seconds:g} s")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, requests.RequestException):
            raise
        raise requests.ConnectionError(error) from error
    return bytes(body)
