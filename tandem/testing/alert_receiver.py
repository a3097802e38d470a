"""The contract of an alert receiver (:class:`pipelines.alerting.AlertReceiver`), a suite to inherit.

A receiver of another package is tested by a class and what stands on its other side::

    class TestMyReceiver(AlertReceiverContract):
        @pytest.fixture
        def far_side(self, tmp_path):
            with MyFarSide(tmp_path) as side:   # a FarSide
                yield side
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.alerting import Alert, AlertReceiver, AlertStore, deliver

__all__ = ["NOW", "AlertReceiverContract", "FarSide", "message"]

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def message(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A message as the store makes them."""
    return {
        "id": f"id-{number}", "source": "tandem", "project": "shop", "state": "firing", "change": "new", "key": f"job/{number}",
        "severity": "fail", "title": f"tandem batch failed, {number}", "text": "no space left\nrun batch-1", "since": NOW.isoformat(),
        "at": NOW.isoformat(), "labels": {"kind": "batch"}, "values": {"temp": 0.4}, **changes,
    }  # fmt: skip


class FarSide(ABC):
    """What the receiver sends to: a real server, a folder, whatever it is. It is up at first."""

    secrets: tuple[str, ...] = ()
    """Passwords, addresses: what must not be shown."""

    @abstractmethod
    def receiver(self) -> AlertReceiver:
        """A new receiver that sends here, with at most a second for an answer."""

    @abstractmethod
    def taken(self) -> list[str]:
        """The titles of the messages that it took, in their order."""

    @abstractmethod
    def down(self) -> None:
        """Take nothing from now on."""

    @abstractmethod
    def up(self) -> None:
        """Take messages again."""


class AlertReceiverContract:
    """One fixture to override: ``far_side``."""

    @pytest.fixture
    def far_side(self) -> Any:
        """A :class:`FarSide`."""
        raise NotImplementedError("override the fixture far_side")

    def test_it_takes_every_kind_of_message(self, far_side: FarSide) -> None:
        kinds = [("firing", "new"), ("firing", "changed"), ("resolved", "over"), ("event", "new")]
        messages = [message(n, state=state, change=change) for n, (state, change) in enumerate(kinds)]
        outcomes = [far_side.receiver().send(m, NOW) for m in messages]
        assert all(o.ok and not o.error for o in outcomes)
        assert far_side.taken() == [m["title"] for m in messages]

    def test_it_changes_no_message(self, far_side: FarSide) -> None:
        given = message()
        far_side.receiver().send(given, NOW)
        assert given == message()

    @pytest.mark.parametrize("text", ["", "x" * 100_000, 'ü € 😀 <b> & "q" \\ \u2028 \x01'])
    def test_strange_texts_are_taken_or_rejected(self, far_side: FarSide, text: str) -> None:
        outcome = far_side.receiver().send(message(text=text, labels={}, values={}), NOW)
        assert outcome.ok or outcome.rejected

    def test_a_far_side_that_is_down_is_an_outcome_and_shows_no_secret(self, far_side: FarSide) -> None:
        receiver = far_side.receiver()
        far_side.down()
        outcome = receiver.send(message(), NOW)
        assert not outcome.ok and not outcome.rejected and outcome.error and len(outcome.error.splitlines()) == 1
        assert not [s for s in far_side.secrets if s in outcome.error or s in repr(receiver)]
        far_side.up()
        assert receiver.send(message(), NOW).ok  # the same object goes on

    def test_what_failed_is_sent_once_when_it_is_up_again(self, far_side: FarSide, tmp_path: Path) -> None:
        store, now = AlertStore(tmp_path / "alerts", "shop"), NOW

        def clock() -> datetime:
            return now

        far_side.down()
        for title in ("first", "second"):
            store.sync(title, [Alert(title, "fail", title)], now)
        for _ in range(3):
            done = deliver(store, far_side.receiver(), clock)
            assert (done.sent, done.waiting) == (0, 2) and done.next is not None and done.next > now
            now = done.next
        far_side.up()
        assert deliver(store, far_side.receiver(), clock).sent == 2
        for _ in range(3):  # and nothing more while nothing changes
            now += timedelta(days=1)
            for title in ("first", "second"):
                assert store.sync(title, [Alert(title, "fail", title)], now) == []
            assert deliver(store, far_side.receiver(), clock).sent == 0
        assert far_side.taken() == ["first", "second"]

    def test_a_message_is_json(self, far_side: FarSide, tmp_path: Path) -> None:
        (queued,) = AlertStore(tmp_path / "alerts").sync("m", [Alert("a", "warn", "a", labels={"x": "y"}, values={"z": 1.5})], NOW)
        assert queued.body.keys() == message().keys() and json.loads(json.dumps(queued.body)) == queued.body
        assert far_side.receiver().send(queued.body, NOW).ok
