"""Reading from Redis on an event loop: one connection, over which the questions of all requests go one behind the other.

Answers come in the order of the questions, so that requests that come together share round trips, and none of them needs a thread. While
there is no connection (Redis is away, or takes TLS, whose sockets are not for this), whoever asks is told so, and reads by a thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import hiredis

__all__ = ["Answers", "RedisLoop"]

log = logging.getLogger("tandem.serving")

Answers = list[list[bytes | None]]

_AT_ONCE = 8_192
"""Bytes that the parser is given: it moves all that it still has each time it has read a kilobyte of it."""
_LARGE = 2_048
"""Bytes of a question that is not kept for the others that may come with it."""
_AGAIN_SECONDS = 1.0
"""Before a connection that could not be made is tried again."""


class RedisLoop:
    """The connection, made anew when it breaks. For one event loop, and for its thread alone."""

    def __init__(self, opened: Callable[[], socket.socket | None], seconds: float) -> None:
        """``opened`` gives a socket that is connected and let in, on a thread; None: there is no such one. ``seconds``: how long an answer
        is waited for before the connection is taken for broken."""
        self._opened = opened
        self._seconds = seconds
        self._line: _Line | None = None
        self._trying = self._closed = False
        self._task: asyncio.Task[None] | None = None

    def ask(self, data: bytes, count: int) -> asyncio.Future[Answers] | None:
        """The lists that Redis answers to ``count`` commands; None while there is no connection. The future fails with an OSError if the
        connection breaks, or an answer is none."""
        line = self._line
        if line is None or line.broken:
            self.connect()
            return None
        return line.ask(data, count)

    def connect(self) -> None:
        """Begin to make a connection, if there is none and nobody is at it."""
        if not self._trying and not self._closed:
            self._trying = True
            self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = await loop.run_in_executor(None, self._opened)
            if sock is None:
                return  # for good: _trying stays
            sock.setblocking(False)
            _, self._line = await loop.create_connection(lambda: _Line(self._seconds), sock=sock)
            self._trying = False
            if self._closed:
                self.close()
        except Exception as e:  # whatever the store's client raises; requests that take a thread say it
            log.debug("online store: no connection for the event loop (%s)", e)
            loop.call_later(_AGAIN_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._trying = False

    def close(self) -> None:
        """Close the connection, and make no other."""
        self._closed = True
        if self._line is not None:
            self._line.close()


class _Line(asyncio.Protocol):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[int, float, asyncio.Future[Answers]]] = deque()
        self._answers: Answers = []
        self._unsent: list[bytes] = []
        self._watched = False
        self.broken = False

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._loop = asyncio.get_running_loop()

    def ask(self, data: bytes, count: int) -> asyncio.Future[Answers]:
        future: asyncio.Future[Answers] = self._loop.create_future()
        self._waiting.append((count, time.monotonic(), future))
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(data)
        if len(data) > _LARGE:
            self._send()  # the store is at it while other requests are read
        if not self._watched:
            self._watch()
        return future

    def _send(self) -> None:
        """The questions of all requests that came at once, by one call of the kernel."""
        unsent, self._unsent = self._unsent, []
        if unsent and not self.broken:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _AT_ONCE):
            self._reader.feed(data[start : start + _AT_ONCE] if len(data) > _AT_ONCE else data)
            self._answer()

    def _answer(self) -> None:
        """Hand on what is whole by now."""
        reader = self._reader
        while self._waiting:
            count, _, future = self._waiting[0]
            answers = self._answers
            try:
                answers += islice(iter(reader.gets, False), count - len(answers))
            except hiredis.ProtocolError:
                self.close()
                return
            if len(answers) < count:
                return
            self._waiting.popleft()
            self._answers = []
            if not future.done():  # its request may have gone
                odd = next((a for a in answers if type(a) is not list), None)
                if odd is None:
                    future.set_result(answers)
                else:
                    future.set_exception(OSError(f"the store answers {odd!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = True
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionError("the connection is gone"))
        self._waiting.clear()

    def close(self) -> None:
        self.broken = True
        self._transport.abort()  # connection_lost tells those who wait

    def _watch(self) -> None:
        """A connection whose oldest question waits too long is taken for broken. One timer for all of them."""
        self._watched = bool(self._waiting) and not self.broken
        if not self._watched:
            return
        left = self._waiting[0][1] + self._seconds - time.monotonic()
        if left <= 0:
            self._watched = False
            self.close()
        else:
            self._loop.call_later(left, self._watch)
