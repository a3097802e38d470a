"""What takes alerts: one small interface, open to other packages by the entry points ``tandem.alert_receivers``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from pipelines.project.config import AlertSettings
from pipelines.project.extensions import ALERT_RECEIVERS

__all__ = ["LONGEST_ASKED", "AlertReceiver", "Outcome", "open_receiver"]

LONGEST_ASKED = timedelta(hours=6)
"""A longer wait that a receiver asks for (a webhook's Retry-After) is not believed."""


@dataclass(frozen=True)
class Outcome:
    """What became of one sending. ``rejected``: the message is at fault, others may go. ``after``: how long to wait before the next."""

    ok: bool
    error: str = ""
    """One line, without an address or a password, which may be secrets."""
    rejected: bool = False
    after: timedelta | None = None


class AlertReceiver(ABC):
    """Takes alerts. A subclass is tested by ``tandem.testing.alert_receiver.AlertReceiverContract``."""

    name: ClassVar[str]
    """What messages call it."""

    def __init__(self, settings: AlertSettings) -> None:
        """Raises ConfigError if the settings do not do, without the values that may be secrets. Connects to nothing yet."""
        self.settings = settings

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # the settings hold secrets

    @abstractmethod
    def send(self, message: Mapping[str, Any], now: datetime) -> Outcome:
        """Send a message once, within ``settings.timeout_seconds`` or little more; never raises for what a network or a server does.

        ``message``: ``id`` (the same one each time that a message is sent again: a receiver that drops ids it has seen gets each once),
        ``source`` ("tandem"), ``project``, ``state`` ("firing", "resolved", or "event" for what happened once), ``change`` ("new",
        "changed", "over"), ``key`` (which alert), ``severity`` ("info", "warn", "fail"), ``title``, ``text`` (may have lines), ``since``
        and ``at`` (ISO 8601, UTC), ``labels`` (str: str), ``values`` (str: float). All of it is JSON.
        """


def open_receiver(settings: AlertSettings) -> AlertReceiver | None:
    """The receiver of the settings; None if there is none (no ``alerts.webhook``). Raises ConfigError if it is not to be had."""
    if settings.receiver == "webhook" and not settings.webhook:
        return None
    made: type[AlertReceiver] = ALERT_RECEIVERS.load(settings.receiver)
    return made(settings)
