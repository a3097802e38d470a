"""Admission control: who is let in, how much of a body is held, which request is next, and when work stops."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from fastapi import Request, Response
from starlette.background import BackgroundTask

from serving.addresses import network_of
from serving.arrivals import Arrival, Arrivals, Shares
from serving.context import RequestContext, new_request_id, usable_id
from serving.fair_queue import FairQueue, Waiting
from serving.limits import Limits
from serving.principals import ANYBODY, Principal
from serving.request_errors import ClientGoneError, MediaTypeError, OverloadedError, TimedOutError, TooLargeError
from serving.settings import ServingSettings

__all__ = ["Admission", "Answer", "Quick", "Work"]

_TAKEN_AS_JSON = ("application/json", "", "application/x-www-form-urlencoded", "text/json", "text/plain", "application/octet-stream")
"""TF-Serving heeds no content type, so its users send none, or what ``curl -d`` says. What names another format is refused."""
_HEAVY_BYTES = 64 << 10
"""A body from which on a request is a large one: some thousand rows."""
_FIXED_COST = 2_000
"""What a request costs beside the bytes of its body, in bytes."""
_BODIES_PER_PLACE = 4
"""Bodies that may be on their way for each request that may be worked on or wait."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON of an answer."""

    content: bytes
    after: Callable[[], None] | None = None
    """Called on the event loop once the answer is sent; must not block."""


Work = Callable[[bytes, RequestContext], Answer]
Quick = Callable[[bytes, RequestContext], Awaitable[Answer | None] | None]
"""The same work on the event loop, for requests that need no thread; None, or a result that is None: this one needs one."""


@dataclass(eq=False, slots=True)
class _Job:
    work: Work
    body: bytes
    context: RequestContext
    future: asyncio.Future[Answer]
    gone: Callable[[], bool]
    quick: Quick | None
    variables: Context = field(default_factory=copy_context)
    """Of the request: the trace that it belongs to."""

    def run(self) -> Answer:
        return self.variables.run(self._run)

    def _run(self) -> Answer:
        self.context.check()
        return self.work(self.body, self.context)

    def fail(self, error: Exception) -> None:
        traceback.clear_frames(error.__traceback__)  # they hold this job, and so its error
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # perhaps nobody waits for it any more


class Admission:
    """Takes a request's body within limits and has it answered by a thread, within the time limit, or refuses it.

    A body first gets a place, then bytes of one budget; of either a single client has half at most. Which body gives way where there is
    no room is for :class:`Arrivals`. Read requests wait in a :class:`FairQueue`; large ones never have more than a quarter of the threads.
    """

    def __init__(self, settings: ServingSettings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="tandem-answer")
        self._queue: FairQueue[_Job] = FairQueue()
        self._running = self._heavy = 0
        self._most_heavy = max(1, settings.threads // 4)
        self._arrivals = Arrivals(
            Shares(max(2, _BODIES_PER_PLACE * (settings.threads + settings.max_waiting))),
            Shares(max(settings.max_waiting_bytes, 2 * settings.max_body_bytes)),
        )

    async def answer(self, request: Request, work: Work, quick: Quick | None = None) -> Response:
        """The answer of ``work(body, context)``, or of ``quick`` where a request is not large; it carries the request's id as
        ``X-Request-Id``, the caller's own beside it.

        Raises what ``work`` raises; RateLimitedError, OverloadedError, TimedOutError, ClientGoneError, MediaTypeError, TooLargeError.
        """
        limit, scope = self._settings.timeout_seconds, request.scope
        principal: Principal = scope["state"].get("principal", ANYBODY)
        address = network_of(scope["client"][0]) if scope.get("client") else ""
        client = f"principal {principal.name}" if principal.name else f"address {address}"
        self._limits.admit(client, principal.name)
        head = dict(reversed(scope["headers"]))  # of a header that is there twice the first one counts
        given = head.get(b"x-request-id", b"").decode("latin-1")
        context = RequestContext(
            request_id=new_request_id(),
            client_request=given if given and usable_id(given) else None,
            principal=principal,
            deadline=time.monotonic() + limit,
            charge=_Charge(self._limits, client, principal.name),
        )
        self._check_head(head)
        return Answered(await self._answered(request, work, quick, context, client), context)

    async def _answered(self, request: Request, work: Work, quick: Quick | None, context: RequestContext, client: str) -> Answer:
        late, waiting, arrival = "the body did not arrive within {:g} s; send it again", None, None
        try:
            # No task of its own, as wait_for makes.
            async with asyncio.timeout(max(0.001, context.deadline - time.monotonic())) as patience:
                arrival = self._arrivals.enter(client, lambda: _end(patience))
                body = await self._body(request, arrival)
                self._arrivals.whole(arrival)
                late = "no answer within {:g} s; try again"
                heavy = len(body) >= _HEAVY_BYTES
                if heavy:
                    quick = None
                if quick is not None and not self._queue and self._running < self._settings.threads:
                    quickly = await self._quickly(quick, body, context)
                    if quickly is not None:
                        return quickly
                    quick = None
                future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                job = _Job(work, body, context, future, request.scope.get("tandem.gone", lambda: False), quick)
                waiting = Waiting(job, client, float(_FIXED_COST + len(body)), heavy)
                most = self._settings.max_waiting + self._settings.threads - self._running
                if (refused := self._queue.push(waiting, most)) is not None:
                    refused.fail(OverloadedError("the server is busy; try again"))
                self._dispatch()
                try:
                    return await asyncio.shield(future)
                finally:  # an error would hold this frame, which held the error by its future, and the body until garbage is looked for
                    del future, job, body
        except TimeoutError:
            if arrival is not None and arrival.gave_way:
                raise OverloadedError(arrival.gave_way) from None
            raise TimedOutError(late.format(self._settings.timeout_seconds)) from None
        finally:
            if waiting is not None:
                self._queue.remove(waiting)  # still there if the time has passed
                waiting = None
            if arrival is not None:
                self._arrivals.leave(arrival)

    async def _quickly(self, quick: Quick, body: bytes, context: RequestContext) -> Answer | None:
        """What ``quick`` gives; it has a place among the threads meanwhile, so that no more is under way than else."""
        self._running += 1
        try:
            step = quick(body, context)
            return None if step is None else await step
        finally:
            self._running -= 1
            self._dispatch()

    async def _quick_job(self, job: _Job) -> Answer:
        job.context.check()
        assert job.quick is not None
        step = job.quick(job.body, job.context)
        answer = None if step is None else await step
        return answer if answer is not None else await asyncio.get_running_loop().run_in_executor(self._pool, job.run)

    def _dispatch(self) -> None:
        """Give free threads what is next. On the event loop, as all but ``_Job.run``."""
        while self._running < self._settings.threads and (waiting := self._queue.pop(self._heavy < self._most_heavy)) is not None:
            job = waiting.item
            if job.gone():
                job.fail(ClientGoneError("the client disconnected before its turn"))
                continue
            self._running += 1
            self._heavy += waiting.heavy
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._pool, job.run) if job.quick is None else loop.create_task(self._quick_job(job))
            done.add_done_callback(lambda done, waiting=waiting: self._done(waiting, done))  # type: ignore[misc]

    def _done(self, waiting: Waiting[_Job], done: asyncio.Future[Answer]) -> None:
        self._running -= 1
        self._heavy -= waiting.heavy
        future = waiting.item.future
        if done.cancelled():
            waiting.item.fail(OverloadedError("the server is stopping"))
        elif (error := done.exception()) is not None:
            waiting.item.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
        elif not future.done():
            future.set_result(done.result())
        self._dispatch()

    def _check_head(self, head: Mapping[bytes, bytes]) -> None:
        kind = head.get(b"content-type", b"")
        if kind != b"application/json":
            media = kind.decode("latin-1").split(";")[0].strip().lower()
            if media not in _TAKEN_AS_JSON and not media.endswith("+json"):
                raise MediaTypeError(f"content-type {media[:60]!r} is not JSON; send application/json")
        if head.get(b"content-encoding", b"identity").lower() != b"identity":
            raise MediaTypeError("compressed request bodies are not supported; send uncompressed JSON")
        most = self._settings.max_body_bytes
        declared = head.get(b"content-length", b"")
        if declared.isdigit() and len(declared) < 20 and int(declared) > most:
            raise TooLargeError(f"the body has {int(declared)} bytes, more than {most}; split the request")

    async def _body(self, request: Request, arrival: Arrival) -> bytes:
        most = self._settings.max_body_bytes
        parts, size, more = [], 0, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError("the client disconnected before its body arrived")
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > most:
                raise TooLargeError(f"the body has more than {most} bytes; split the request")
            self._arrivals.received(arrival, len(part))
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Take nothing more; what is under way goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Charge:
    """Tells the limits how many rows a request asks for, once: what began on the event loop may be done by a thread after all."""

    def __init__(self, limits: Limits, client: str, principal: str) -> None:
        self._to: tuple[Limits, str, str] | None = (limits, client, principal)

    def __call__(self, rows: int) -> None:
        to, self._to = self._to, None
        if to is not None:
            to[0].charge(to[1], to[2], rows)


def _end(patience: asyncio.Timeout) -> None:
    """Let a time be over now, if it is not."""
    if not patience.expired():
        patience.reschedule(asyncio.get_running_loop().time())


class _After(BackgroundTask):
    """A step after the answer is sent, on the event loop itself: a thread of its own would cost more than the step."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step

    async def __call__(self) -> None:
        self._step()


class Answered(Response):
    """An answer of JSON with the ids of its request. What a response of the framework makes of its arguments is known here."""

    def __init__(self, answer: Answer, context: RequestContext) -> None:
        self.status_code, self.body = 200, answer.content
        self.background = None if answer.after is None else _After(answer.after)
        heads = [(b"x-request-id", context.request_id.encode())]
        if context.client_request is not None:
            heads.append((b"x-client-request-id", context.client_request.encode()))
        self.raw_headers = [*heads, (b"content-length", b"%d" % len(answer.content)), (b"content-type", b"application/json")]
