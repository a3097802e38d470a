"""Connections within limits: uvicorn's protocol, with what it leaves open to a proxy in front.

* A request's line and headers have a limit in bytes (431), and a deadline (408), as has the whole exchange (the connection is cut).
* Idle connections are closed after some seconds, and earlier where the greatest number is reached: the one that is idle longest makes room,
  first one of the address that has most. Without an idle one the new connection gets a 503. So those who only connect never end service.
* An answer that its client does not read has the exchange's time, too: it is held in memory.
* A request that is answered before its body is there (too large, too slow) has some seconds to notice, then its connection ends.
* Few requests may stand in line behind the one that is answered (pipelining); a connection that brings more is cut: each takes a hundred
  times the memory that its bytes do.
* A request that does not name its host, once and as a host is written, is refused (400); one of HTTP/1.0 need not.
* A wish for another protocol (``Upgrade: h2c``) is passed over, and the request answered.
* A client's certificate, and whether it has hung up, are in the scope of its requests (``tandem.certificate``, ``tandem.gone``).
* Where an authority of client certificates was taken out, a connection whose certificate was checked while it was there ends with its next
  request (503): the client makes another one, if it still may. One that is added, or followed by another beside it, ends nothing.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.addresses import names_one_host, network_of
from serving.settings import ServingSettings

__all__ = ["Connections", "connection_class", "most_connections"]

_SPARE_FILES = 256
"""Files that a process opens beside its connections: models, the store, its logs, libraries."""
_LINGER_SECONDS = 2.0
_MOST_IN_LINE = 64
"""Requests of one connection that wait for the one before them."""


def most_connections(wanted: int) -> int:
    """How many connections this process can have: ``wanted``, or fewer where its limit of open files leaves less. Raises that limit as far
    as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    aim = wanted + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < aim:
        soft = aim if hard == resource.RLIM_INFINITY else min(hard, aim)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - _SPARE_FILES, soft // 2, 1))


@dataclass(eq=False)
class Connections:
    """All connections of a server, for its event loop alone."""

    most: int
    per_client: int
    header_bytes: int
    head_seconds: float
    exchange_seconds: float
    """From a request's head to the end of its answer."""
    idle: dict[Any, None] = field(default_factory=dict)
    """Those without a request, the longest idle first."""
    clients: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    refused: int = 0

    @staticmethod
    def of(settings: ServingSettings) -> Connections:
        """The limits of a server."""
        most = most_connections(settings.max_connections)
        exchange = 2 * settings.timeout_seconds + _LINGER_SECONDS + 5.0
        return Connections(most, settings.max_connections_per_client or most, settings.max_header_bytes, settings.head_seconds, exchange)

    def enter(self, connection: Limited, address: str) -> bool:
        """Whether there is room for one more, perhaps after closing an idle one."""
        if self.clients[address] >= self.per_client and not self._make_room(address):
            return False
        if self.opened >= self.most and not self._make_room(None):
            return False
        self.clients[address] += 1
        self.opened += 1
        self.idle[connection] = None
        return True

    def leave(self, connection: Limited, address: str) -> None:
        """It is gone, or as good as gone."""
        self.opened -= 1
        self.clients[address] -= 1
        if not self.clients[address]:
            del self.clients[address]
        self.idle.pop(connection, None)

    def _make_room(self, address: str | None) -> bool:
        some = [c for c in self.idle if address is None or c.address == address]
        if not some:
            return False
        most = max(self.clients[c.address] for c in some)
        next(c for c in some if self.clients[c.address] == most).end()
        return True


class Limited(HttpToolsProtocol):
    """One connection. A subclass of :func:`connection_class` knows the server's limits."""

    limits: Connections
    tls: ssl.SSLContext | None = None
    authorities: frozenset[bytes] = frozenset()
    """The authorities of client certificates that ``tls`` has."""
    address = ""
    _early = b""
    _checked_by: frozenset[bytes] = frozenset()
    _entered = False
    _head_bytes = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None
    _due = 0.0
    _step: Callable[[], None] | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        self.address = network_of(peer[0]) if isinstance(peer, tuple) else ""
        self._raw = transport
        self._entered = self.limits.enter(self, self.address)
        if self.tls is not None:
            self._checked_by = self.authorities
            # Not by the listener: it would tell us of connections after their handshake alone, and nobody would count those before.
            if not self._entered:
                self.limits.refused += 1
                transport.abort()
                return
            transport.pause_reading()  # what comes belongs to the handshake
            self._securing = self.loop.create_task(self._secure(transport, self.tls))
            return
        super().connection_made(transport)
        self._begin()

    def _begin(self) -> None:
        if not self._entered:
            self.limits.refused += 1
            self._answer(503, "too many connections; try again")
            return
        self._set_timer(self.limits.head_seconds, self._late_head)
        if self._early:
            data, self._early = self._early, b""
            self.data_received(data)

    async def _secure(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            seconds = self.limits.head_seconds
            secured = await self.loop.start_tls(transport, self, context, server_side=True, ssl_handshake_timeout=seconds)
        except (OSError, asyncio.CancelledError):  # ssl.SSLError and time-outs among them
            secured = None
        if secured is None or not self._entered:
            self._leave()
            transport.abort()
            return
        super().connection_made(secured)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._stop_timer()
        if self._timer is not None:
            self._timer.cancel()
        self._was_read()
        if self.transport is not None:
            super().connection_lost(exc)

    def end(self) -> None:
        """Close it at once, to make room."""
        self._leave()
        self._stop_timer()
        (self.transport or self._raw).abort()

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            self._early += data  # it came with the end of the handshake
            return
        if not self._entered:
            return  # refused
        if self._in_head:
            if self._step is None:
                self._set_timer(self.limits.head_seconds, self._late_head)
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes + (256 << 10):  # no read is larger, so the head alone passes the limit
                self._too_large()
                return
        self._feed(data)
        if self._entered and self._in_head and self._head_bytes > self.limits.header_bytes:
            self._too_large()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        rest = memoryview(data)  # many requests may be in one read, and each may have the wish: no copy of what follows is made
        try:
            while (wished := self._until_wish(rest)) is not None and not self.transport.is_closing():
                rest = rest[wished:]
                self._again_without_wish()
        except httptools.HttpParserError:
            self._invalid()

    def _until_wish(self, data: memoryview) -> int | None:
        """Where the first head ends that wishes for another protocol; None where all is read, and none does. Raises HttpParserError."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            return int(wish.args[0])
        return None

    def _again_without_wish(self) -> None:
        """Read a request's head again, without its wish for another protocol: the parser took what comes behind it, a body say, for that
        protocol's, where some clients add the wish to every request. Raises HttpParserError."""
        method = self.parser.get_method()
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's: the last request is answered all the same
        if method == b"CONNECT" or self._until_wish(memoryview(b"\r\n".join(lines) + b"\r\n\r\n")) is not None:
            raise httptools.HttpParserError("another protocol")

    def _invalid(self) -> None:
        said = "Invalid HTTP request received."
        self.logger.warning(said)
        if self._is_its_turn():
            self.send_400_response(said)
        else:
            self.end()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.limits.idle.pop(self, None)
        self._in_head = True
        self._head = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it comes again
        if not names_one_host(self.parser.get_http_version(), [value for name, value in self.headers if name == b"host"]):
            raise httptools.HttpParserError("not one host")
        self._in_head = False
        self._head_bytes = 0
        if not self._entered:
            return  # its head was too large
        if len(self.pipeline) >= _MOST_IN_LINE:
            self.limits.refused += 1
            self.end()  # no answer of ours: those before it are not answered yet, and it would be taken for theirs
            return
        tls = self.transport.get_extra_info("ssl_object")
        if tls is not None and not self._checked_by <= self.authorities and tls.getpeercert(binary_form=True):
            if self.cycle is None or self.cycle.response_complete:
                self._answer(503, "the CA for client certificates has changed; connect again")
            else:
                self.end()  # as above
            return
        self._was_read()
        self._set_timer(self.limits.exchange_seconds, self.transport.abort)
        super().on_headers_complete()
        cycle = self.cycle
        whole = _Whole(self.transport, cycle.on_response)
        cycle.transport, cycle.on_response = whole, whole.complete  # type: ignore[assignment]
        self.scope["tandem.gone"] = _gone(cycle)  # type: ignore[typeddict-unknown-key]
        if tls is not None:
            self.scope["tandem.certificate"] = tls.getpeercert(binary_form=True)  # type: ignore[typeddict-unknown-key]

    def on_body(self, body: bytes) -> None:
        if self._entered:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() or not self._entered:
            return
        super().on_message_complete()
        self._in_head = True  # of the next one
        if self.cycle is not None and self.cycle.response_complete:
            self._is_idle()  # the rest of a body that nobody waited for

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._set_timer(self.limits.exchange_seconds, self.transport.abort)
        elif self._in_head:
            self._is_idle()
        else:  # answered before its body was there: what still comes is thrown away, for a while
            self._set_timer(_LINGER_SECONDS, self.transport.close)

    def _is_idle(self) -> None:
        self._stop_timer()
        if self._entered:
            self.limits.idle[self] = None
        if self.transport.get_write_buffer_size():  # by a timer of its own: the next request's head has the other one
            self._unread = self.loop.call_later(self.limits.exchange_seconds, self._end_unread)

    def _end_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _was_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _count(self, n: int) -> None:
        self._head += n
        if self._head > self.limits.header_bytes and self._entered:
            self._too_large()

    def _late_head(self) -> None:
        if self._in_head and self._entered and (self.cycle is None or self.cycle.response_complete):
            self._answer(408, "the head of the request did not arrive in time")

    def _is_its_turn(self) -> bool:
        """Whether an answer of ours to what is being read is taken for that: not while one to a request before it, or a part of its own by
        the application, is to come."""
        cycle = self.cycle  # of the last request whose head is there
        if cycle is None or cycle.response_complete:
            return True
        return not self._in_head and not self.pipeline and not cycle.response_started

    def _too_large(self) -> None:
        if not self._is_its_turn():
            self.end()
            return
        self._answer(431, f"the head of the request has more than {self.limits.header_bytes} bytes; send fewer or shorter headers")

    def _answer(self, status: int, error: str) -> None:
        """Say why, and close; what still comes is not looked at."""
        if not self.transport.is_closing():
            body = f'{{"error":"{error}"}}'.encode()
            phrase = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}[status]
            kind = f"content-type: application/json\r\nx-content-type-options: nosniff\r\ncontent-length: {len(body)}"
            self.transport.write(f"HTTP/1.1 {status} {phrase}\r\n{kind}\r\nconnection: close\r\n\r\n".encode() + body)
            self.transport.close()
        self._leave()
        self._stop_timer()

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self.limits.leave(self, self.address)

    def _set_timer(self, seconds: float, step: Callable[[], None]) -> None:
        """``step`` after some seconds, instead of what was to come. A timer that fires too early waits for the rest: most are never due, so
        a request need not make one and take it back."""
        self._due, self._step = self.loop.time() + seconds, step
        if self._timer is not None and self._timer.when() <= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self._is_due)

    def _is_due(self) -> None:
        self._timer, step = None, self._step
        if step is None:
            return
        if self.loop.time() < self._due:
            self._timer = self.loop.call_at(self._due, self._is_due)
            return
        self._step = None
        step()

    def _stop_timer(self) -> None:
        self._step = None

    _head = 0


def _gone(cycle: RequestResponseCycle) -> Callable[[], bool]:
    """Whether the client of an exchange has hung up, or the exchange is over. It does not hold the exchange, which holds this: what holds
    itself is left to the garbage collection, and to free those of a thousand requests takes it ten milliseconds."""
    of = ref(cycle)
    return lambda: (own := of()) is None or own.disconnected


class _Whole:
    """A connection's transport for one answer, which goes out in one piece: uvicorn writes its head and its body one after the other, and
    each is a call of the kernel that wakes the client."""

    __slots__ = ("_head", "_on_response", "_transport")

    def __init__(self, transport: asyncio.Transport, on_response: Callable[[], None]) -> None:
        self._transport, self._on_response = transport, on_response
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Of an answer's head: keep it for what comes next, which is its body or its end."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines([head, data])
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):  # a 100 says to go on
            self._head = data
        else:
            self._transport.write(data)

    def complete(self) -> None:
        """The answer is whole; one to HEAD has no body."""
        self._flush()
        self._on_response()

    def close(self) -> None:
        """As of the transport."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


def connection_class(limits: Connections) -> type[Limited]:
    """The protocol class of a server with these limits, for uvicorn's ``http``. With a ``tls`` it makes the handshakes itself."""
    return type("LimitedConnection", (Limited,), {"limits": limits})
