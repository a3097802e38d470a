"""What others answer over HTTP, within limits: no answer that is large, expands, or comes drop by drop holds who asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import requests
import urllib3

__all__ = ["read_answer", "within"]

_PIECE = 64 * 1024
_GIVEN_UP: dict[str, threading.Thread] = {}
"""Whose answer is still being waited for though nobody wants it any more."""

T = TypeVar("T")


def within(seconds: float, whom: str, ask: Callable[[], T]) -> T:
    """What ``ask`` returns or raises, if that takes no longer; else, and while an exchange with ``whom`` that was given up goes on, raises
    requests.ReadTimeout.

    The limits of sockets are of each wait for a byte: who sends one now and then, of the head of an answer or of what it is packed in, is
    never too slow for them. So the exchange has a thread of its own, which ends with its connection; there is one of ``whom`` at most.
    """
    if (before := _GIVEN_UP.get(whom)) is not None and before.is_alive():
        raise requests.ReadTimeout(f"an earlier response is incomplete; no data was accepted for {seconds:g} s")
    done: list[Callable[[], T]] = []

    def run() -> None:
        try:
            found = ask()
            done.append(lambda: found)
        except BaseException as error:
            raised = error

            def again() -> T:
                raise raised

            done.append(again)

    thread = threading.Thread(target=run, name="tandem-http", daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        _GIVEN_UP[whom] = thread
        raise requests.ReadTimeout(f"its answer was not whole within {seconds:g} s")
    return done[0]()


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
