"""Delivery: each message of the store to the receiver, tried again with growing waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pipelines.alerting.alert_store import AlertStore, Message
from pipelines.alerting.receiver import LONGEST_ASKED, AlertReceiver
from transforms.locks import try_lock

__all__ = ["Delivered", "backoff", "deliver"]

_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(hours=1)


@dataclass(frozen=True)
class Delivered:
    """One round of delivery; ``next`` is when the next one is worth while (None: nothing waits)."""

    sent: int = 0
    failed: int = 0
    lost: int = 0
    waiting: int = 0
    next: datetime | None = None


def backoff(failures: int) -> timedelta:
    """The wait after so many failures in a row (from 1): 5 s, 10 s, ... at most an hour."""
    return min(_FIRST_WAIT * (1 << min(max(failures - 1, 0), 20)), _LONGEST_WAIT)


def deliver(
    store: AlertStore,
    receiver: AlertReceiver,
    clock: Callable[[], datetime],
    *,
    keep: timedelta = timedelta(hours=72),
    say: Callable[[str], None] = lambda line: None,
) -> Delivered:
    """Send those that are pending, oldest first. Of several processes one delivers at a time; the others leave it to that one.

    When the receiver itself fails (for a webhook: no answer, 5xx, 429, 401...), the round ends, and the next is due after a growing
    wait, or after the one that it asked for (six hours at most; one that ends further ahead was begun by a clock that was set back
    since). A message that it rejects (400, 413, 422) waits alone. What cannot be delivered within ``keep`` is given up, with a line to
    ``say``.
    """
    with try_lock(store.folder / ".deliver.lock") as free:
        if not free:
            return Delivered(waiting=len(store.waiting()), next=clock() + _FIRST_WAIT)
        return _round(store, receiver, clock, keep, say)


def _round(
    store: AlertStore, receiver: AlertReceiver, clock: Callable[[], datetime], keep: timedelta, say: Callable[[str], None]
) -> Delivered:
    sent = failed = lost = 0
    queue = [_believed(m, clock()) for m in store.waiting()]
    held = max((m.due for m in queue if m.held), default=None)  # until then the receiver is left alone
    failing = held is not None
    behind: set[str] = set()  # alerts of which an earlier message waits
    for message in queue:
        now = clock()
        if now - message.created > keep:
            store.done(message, "lost")
            lost += 1
            say(f"alert given up after {keep.total_seconds() / 3600:g} h: {message.body['title']}")
        elif (held is not None and held > now) or message.due > now or message.key in behind:
            behind.add(message.key)
        elif (outcome := receiver.send(message.body, now)).ok:
            store.done(message)
            sent += 1
            if failing:
                say(f"the {receiver.name} accepts alerts again")
            failing = False
        else:
            failed += 1
            due = now + max(backoff(message.attempts + 1), min(outcome.after or timedelta(0), LONGEST_ASKED))
            store.failed(message, outcome.error, due, held=not outcome.rejected)
            behind.add(message.key)
            if not outcome.rejected:
                held, failing = due, True
            say(f"alert not delivered, {outcome.error}; again in {(due - now).total_seconds():.0f} s: {message.body['title']}")
    left = [_believed(m, clock()) for m in store.waiting()]
    if not left:
        return Delivered(sent, failed, lost)
    first = min(m.due for m in left)
    return Delivered(sent, failed, lost, len(left), max(first, held) if held is not None and held > clock() else first)


def _believed(message: Message, now: datetime) -> Message:
    """It is due now where nobody made it wait, or where it is due further ahead than anything may have made it."""
    wait = max(_LONGEST_WAIT, LONGEST_ASKED)
    return message if message.attempts and message.due - now <= wait else replace(message, due=min(message.due, now))
