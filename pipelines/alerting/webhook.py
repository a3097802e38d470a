"""Delivery to a webhook: one POST per message, generic JSON or Slack's format, tried again with growing waits."""

from __future__ import annotations

import email.utils
import fcntl
import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

from pipelines.alerting.book import Book, Message
from pipelines.project.config import AlertSettings
from transforms.errors import ConfigError

__all__ = ["Delivered", "Outcome", "Webhook", "deliver", "slack"]

_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(hours=1)
_LONGEST_ASKED = timedelta(hours=6)
"""A Retry-After beyond this is not believed."""
_OF_THE_MESSAGE = frozenset({400, 413, 422})
"""Answers that are about what was sent, not about the webhook: others behind it may go."""
_SLACK_TEXT = 2900
"""Slack takes 3,000 characters in a section."""


@dataclass(frozen=True)
class Outcome:
    """What became of one POST. ``mine`` tells that the message is at fault, not the webhook. ``after`` is what it asked for."""

    ok: bool
    error: str = ""
    mine: bool = False
    after: timedelta | None = None


class Sender(Protocol):
    """Sends one message."""

    def send(self, body: Mapping[str, Any], now: datetime) -> Outcome:
        """POST it once; never raises for what a network or a server does."""


class Webhook:
    """The webhook of the settings. Raises ConfigError, without the address, which may be a secret, if that is no URL."""

    def __init__(self, settings: AlertSettings) -> None:
        parts = urlsplit(settings.webhook)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("alerts.webhook is no http:// or https:// address; correct it")
        self.settings, self.parts = settings, parts

    def __repr__(self) -> str:
        return f"Webhook({self.parts.hostname})"

    def send(self, body: Mapping[str, Any], now: datetime) -> Outcome:
        """See :class:`Sender`. Redirects are not followed: a POST would become a GET."""
        settings, parts = self.settings, self.parts
        payload = slack(body) if settings.format == "slack" else body
        headers = {"Content-Type": "application/json", "User-Agent": "tandem", "Idempotency-Key": str(body["id"])}
        if settings.secret:
            headers[settings.header] = settings.secret
        host, timeout = parts.hostname or "", settings.timeout_seconds
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, json.dumps(payload).encode(), headers)
            answer = connection.getresponse()
            if 200 <= answer.status < 300:
                return Outcome(True)
            after = _after(answer.getheader("Retry-After"), now)
            return Outcome(False, f"{host} answered {answer.status}", answer.status in _OF_THE_MESSAGE, after)
        except TimeoutError:
            return Outcome(False, f"{host} did not answer within {timeout:g} s")
        except (OSError, http.client.HTTPException) as error:
            return Outcome(False, f"{host}: {getattr(error, 'strerror', None) or type(error).__name__}")
        finally:
            connection.close()


def _after(value: str | None, now: datetime) -> timedelta | None:
    """``Retry-After``: seconds, or a date."""
    if not value:
        return None
    try:
        wait = timedelta(seconds=float(value))
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(value) - now
        except (ValueError, TypeError):
            return None
    except OverflowError:
        return None
    bounded: timedelta = min(max(wait, timedelta(0)), _LONGEST_ASKED)
    return bounded


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slack(body: Mapping[str, Any]) -> dict[str, Any]:
    """The message as Slack's incoming webhooks take it: ``text`` for notifications, ``blocks`` for the channel."""
    mark = {"resolved": ":white_check_mark:", "event": ":information_source:"}.get(
        str(body["state"]), ":rotating_light:" if body["severity"] == "fail" else ":warning:"
    )
    head = f"{mark} *{_escaped(str(body['title']))}*"
    text = _escaped(str(body["text"]))
    text = text if len(text) <= _SLACK_TEXT else text[:_SLACK_TEXT] + "..."
    foot = f"{_escaped(str(body['project']))} | since {body['since'][:16].replace('T', ' ')} UTC | {body['change']} | {body['id']}"
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": head[:_SLACK_TEXT]}}]
    if text:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": text}})
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": foot[:_SLACK_TEXT]}]})
    return {"text": f"{mark} {_escaped(str(body['title']))}", "blocks": blocks}


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
    book: Book,
    sender: Sender,
    clock: Callable[[], datetime],
    *,
    keep: timedelta = timedelta(hours=72),
    say: Callable[[str], None] = lambda line: None,
) -> Delivered:
    """Send what is due, oldest first. Of several processes one delivers at a time; the others leave it to that one.

    When the webhook itself fails (no answer, 5xx, 429, 401...), the round ends, and the next is due after a growing wait, or after
    the Retry-After it asked for. A message that it refuses by itself (400, 413, 422) waits alone. What cannot be delivered
    within ``keep`` is given up, and said.
    """
    book.folder.mkdir(parents=True, exist_ok=True)
    with open(book.folder / ".deliver.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Delivered(waiting=len(book.waiting()), next=clock() + _FIRST_WAIT)
        return _round(book, sender, clock, keep, say)


def _round(book: Book, sender: Sender, clock: Callable[[], datetime], keep: timedelta, say: Callable[[str], None]) -> Delivered:
    sent = failed = lost = 0
    until, failures = book.held()
    behind: set[str] = set()  # alerts of which an earlier message waits
    left: list[Message] = []
    for message in book.waiting():
        now = clock()
        if now - message.created > keep:
            book.done(message, now, "lost")
            lost += 1
            say(f"alert given up after {keep.total_seconds() / 3600:g} h: {message.body['title']}")
        elif until > now or message.due > now or message.key in behind:
            left.append(message)
            behind.add(message.key)
        elif (outcome := sender.send(message.body, now)).ok:
            book.done(message, now)
            sent += 1
            if failures:
                say("the webhook takes alerts again")
            failures = 0
            book.hold(None, 0)
        else:
            failed += 1
            tries = message.attempts + 1 if outcome.mine else failures + 1
            due = now + max(backoff(tries), outcome.after or timedelta(0))
            book.failed(message, outcome.error, due)
            left.append(message)
            behind.add(message.key)
            if not outcome.mine:
                until, failures = due, failures + 1
                book.hold(until, failures)
            say(f"alert not delivered, {outcome.error}; again in {(due - now).total_seconds():.0f} s: {message.body['title']}")
    if not left:
        return Delivered(sent, failed, lost)
    first = min(m.due for m in book.waiting())
    return Delivered(sent, failed, lost, len(left), max(first, until) if until > clock() else first)
