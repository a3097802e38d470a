"""A webhook: one POST per message, as generic JSON or in Slack's format."""

from __future__ import annotations

import email.utils
import ipaddress
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from html import escape
from typing import Any
from urllib.parse import urlsplit

import requests

from pipelines.alerting.receiver import LONGEST_ASKED, AlertReceiver, Outcome
from pipelines.project.config import AlertSettings
from pipelines.project.http import as_it_is, certificates, reason
from serving import tracing
from serving.bounded_http import within
from transforms.errors import ConfigError

__all__ = ["Webhook", "slack"]

log = logging.getLogger("tandem.alerting")

_OF_THE_MESSAGE = frozenset({400, 413, 422})
"""Answers that are about what was sent, not about the webhook: others behind it may go."""
_SLACK_TEXT = 2900
"""Slack takes 3,000 characters in a section."""


class Webhook(AlertReceiver):
    """The webhook of the settings. Raises ConfigError, without the address, which may be a secret, if that is no URL."""

    name = "webhook"

    def __init__(self, settings: AlertSettings) -> None:
        super().__init__(settings)
        parts = urlsplit(self._url())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("alerts.webhook is not an http:// or https:// URL; correct it")
        self.host = parts.hostname
        if parts.scheme == "http" and not _on_this_machine(self.host):
            log.warning("alerts.webhook is http:// to %s: alerts%s are sent unencrypted; use https://",
                        self.host, " and alerts.secret" if settings.secret else "")  # fmt: skip

    def _url(self) -> str:
        return self.settings.webhook.get_secret_value() if self.settings.webhook is not None else ""

    def __repr__(self) -> str:
        return f"Webhook({self.host})"

    def send(self, message: Mapping[str, Any], now: datetime) -> Outcome:
        """See :class:`AlertReceiver`. Redirects are not followed: a POST would become a GET."""
        settings = self.settings
        headers = {"User-Agent": "tandem", "Idempotency-Key": str(message["id"])}
        if (trace := tracing.traceparent()) is not None:
            headers["traceparent"] = trace
        if settings.secret:
            headers[settings.header] = settings.secret.get_secret_value()

        def post() -> tuple[int, str | None]:
            with requests.post(
                self._url(),
                json=slack(message) if settings.format == "slack" else dict(message),
                headers=headers,
                timeout=settings.timeout_seconds,
                allow_redirects=False,
                auth=as_it_is,
                verify=certificates(),
                stream=True,  # what it says beside the status is of no interest, however long it is
            ) as answer:
                return answer.status_code, answer.headers.get("Retry-After")

        try:
            status, retry_after = within(2 * settings.timeout_seconds, self.host, post)
        except requests.Timeout:
            return Outcome(False, f"{self.host} did not answer within {settings.timeout_seconds:g} s")
        except (requests.RequestException, OSError) as error:
            return Outcome(False, f"{self.host}: {reason(error)}")
        if 200 <= status < 300:
            return Outcome(True)
        return Outcome(False, f"{self.host} answered {status}", status in _OF_THE_MESSAGE, _after(retry_after, now))


def _on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


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
    bounded: timedelta = min(max(wait, timedelta(0)), LONGEST_ASKED)
    return bounded


def slack(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as Slack's incoming webhooks take it: ``text`` for notifications, ``blocks`` for the channel."""
    mark = {"resolved": ":white_check_mark:", "event": ":information_source:"}.get(
        str(message["state"]), ":rotating_light:" if message["severity"] == "fail" else ":warning:"
    )
    title, text, project = (escape(str(message[k]), quote=False) for k in ("title", "text", "project"))
    foot = f"{project} | since {message['since'][:16].replace('T', ' ')} UTC | {message['change']} | {message['id']}"
    blocks = [_section(f"{mark} *{title}*"[:_SLACK_TEXT])]
    if text:
        blocks.append(_section(text if len(text) <= _SLACK_TEXT else text[:_SLACK_TEXT] + "..."))
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": foot[:_SLACK_TEXT]}]})
    return {"text": f"{mark} {title}", "blocks": blocks}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}
