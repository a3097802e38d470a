"""What the watch does next: a pure function of what is known of a model and of the time. No files, no clock, no processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pipelines.project.config import WatchSettings, parse_duration

__all__ = [
    "Action", "Attempt", "Champion", "Decision", "Findings", "Look", "Policy", "Retrain", "State", "Trigger", "Waiting",
    "decide", "triggers",
]  # fmt: skip

_AGAIN = timedelta(minutes=1)
"""How soon to look again while somebody else's training runs."""
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Policy:
    """The section ``watch`` of the settings, with lengths of time as such. None: this trigger is off."""

    every: timedelta = timedelta(hours=1)
    drift: bool = True
    decay: bool = True
    champion_age: timedelta | None = timedelta(days=30)
    new_data: timedelta | None = timedelta(days=7)
    cooldown: timedelta = timedelta(days=1)
    attempts: int = 3
    retry: timedelta = timedelta(minutes=30)

    @classmethod
    def of(cls, settings: WatchSettings) -> Policy:
        """From the settings."""
        s = settings
        return cls(
            every=parse_duration(s.every),
            drift=s.drift,
            decay=s.decay,
            champion_age=None if s.champion_days is None else timedelta(days=s.champion_days),
            new_data=None if s.new_days is None else timedelta(days=s.new_days),
            cooldown=timedelta(hours=s.cooldown_hours),
            attempts=s.attempts,
            retry=timedelta(minutes=s.retry_minutes),
        )


@dataclass(frozen=True)
class Champion:
    """The version that serves: when it was made, and on how many whole days there are events that it did not learn from; None: unknown."""

    version: int
    made: datetime | None = None
    new_days: int | None = None


@dataclass(frozen=True)
class Waiting:
    """A challenger that a person is to decide on, and on how many whole days there are events that it did not learn from; None: unknown."""

    version: int
    new_days: int | None = None


@dataclass(frozen=True)
class Findings:
    """What failed in the monitor's latest report about a version, by its names: ``drifted`` features, ``decayed`` scores, and what is
    ``broken``: data that is not the world's but a defect's (a producer's unit, values that nothing explains)."""

    version: int | None
    drifted: tuple[str, ...] = ()
    decayed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """A retraining that was begun on the data ``key`` stands for.

    ``done``: it went to its end, whether its model was promoted or not. ``failed``, ``killed``: so ended the latest try, ``failures`` of
    them by now. ``stopped``: whoever ran it was asked to stop. ``running``: somebody is at it.
    """

    key: str
    state: Literal["running", "done", "failed", "killed", "stopped"]
    begun: datetime
    ended: datetime | None = None
    failures: int = 0


@dataclass(frozen=True)
class State:
    """What is known of one model. ``key`` stands for the data (and graphs) that a training begun now would learn from; None: there is none.

    ``trained_until`` is the end of the newest data that any training of the model has learnt from, by whoever started it; ``training``
    says who trains right now, "" if nobody does. ``looked`` is when the monitor last ran; ``blind``: it made no report then, so what
    ``findings`` say is of before. ``waiting``: the challenger, where the watch promotes nothing.
    """

    policy: Policy
    champion: Champion | None = None
    data_end: datetime | None = None
    key: str | None = None
    findings: Findings | None = None
    looked: datetime | None = None
    attempts: tuple[Attempt, ...] = ()
    trained_until: datetime | None = None
    training: str = ""
    waiting: Waiting | None = None
    blind: bool = False


@dataclass(frozen=True)
class Trigger:
    """A reason to train anew: drift, decay, age or new_data."""

    name: Literal["drift", "decay", "age", "new_data"]
    why: str


@dataclass(frozen=True)
class Look:
    """Run ``tandem labels`` and ``tandem monitor``."""


@dataclass(frozen=True)
class Retrain:
    """Train on the data of ``key``, then let the thresholds decide on promotion. ``resume``: a try before this one broke off."""

    key: str
    triggers: tuple[Trigger, ...]
    resume: bool = False


Action = Look | Retrain


@dataclass(frozen=True)
class Decision:
    """At most one thing to do now; when to decide again if there is none; why no training is begun though triggers hold."""

    action: Action | None
    until: datetime
    triggers: tuple[Trigger, ...] = ()
    held: str = ""
    notes: tuple[str, ...] = field(default=())


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def triggers(state: State, now: datetime) -> tuple[Trigger, ...]:
    """The triggers that hold. What a report says of another version than the champion is not held against the champion, nor what one said
    before the monitor could no longer run; an age, or new days, that nobody knows are none."""
    policy, champion, findings = state.policy, state.champion, state.findings
    if champion is None:  # the first training is a person's to start
        return ()
    out = []
    if findings is not None and not state.blind and findings.version in (None, champion.version):
        if policy.drift and findings.drifted:
            out.append(Trigger("drift", f"{_named(findings.drifted)} drifted"))
        if policy.decay and findings.decayed:
            out.append(Trigger("decay", f"{_named(findings.decayed)} on labelled requests"))
    if policy.champion_age is not None and champion.made is not None and now - champion.made > policy.champion_age:
        out.append(Trigger("age", f"version {champion.version} is {(now - champion.made) / _DAY:.1f} days old"))
    if policy.new_data is not None and champion.new_days is not None and champion.new_days * _DAY >= policy.new_data:
        out.append(Trigger("new_data", f"{champion.new_days} days of events since version {champion.version} was trained"))
    return tuple(out)


def _after(since: datetime, wait: timedelta, now: datetime) -> datetime:
    """When a wait since then is over. One that began further ahead of the clock than it is long was begun by a clock that was set back
    since (or another machine's that is wrong), and is over."""
    return since + wait if since - now <= wait else now


def decide(state: State, now: datetime) -> Decision:
    """What to do now. A look that is due comes first, since a training is decided on what it finds.

    A training is begun only if a trigger holds, nobody trains, no challenger waits for a person (unless it has missed as many days as
    ``new_data`` asks for, or nobody knows how many), the data does not look broken and is other than what has been trained on (or tried
    to its end) already, failures are spaced out and not too many, and the last training that came to its end began a cooldown ago.
    No wait lasts more than twice its length, whatever clock it was begun by.
    A promotion is no part of this: the training's own thresholds decide on it.
    """
    policy = state.policy
    next_look = now if state.looked is None else _after(state.looked, policy.every, now)
    if next_look <= now:
        return Decision(Look(), now)
    found = triggers(state, now)
    if not found:
        return Decision(None, next_look)
    held, until = _held(state, now)
    if held:
        return Decision(None, min(next_look, until or next_look), found, held)
    assert state.key is not None
    return Decision(Retrain(state.key, found, resume=any(a.key == state.key for a in state.attempts)), now, found)


def _held(state: State, now: datetime) -> tuple[str, datetime | None]:
    """Why no training is begun now ("" if it may be), and when that may be over by itself."""
    policy = state.policy
    if state.training or any(a.state == "running" for a in state.attempts):
        return f"a training is running: {state.training or 'a retraining'}", now + _AGAIN
    if state.findings is not None and state.findings.broken:
        return f"the data looks broken ({_named(state.findings.broken)}); fix it first, or a model would learn the defect", None
    if state.key is None or state.data_end is None:
        return "there are no whole days of events to train on", None
    waiting = state.waiting
    if waiting is not None and waiting.new_days is not None and (policy.new_data is None or waiting.new_days * _DAY < policy.new_data):
        more = "" if policy.new_data is None else f", or for {policy.new_data / _DAY - waiting.new_days:.0f} more days of events"
        return f"version {waiting.version}, trained before, waits for 'tandem promote'{more}", None
    mine = [a for a in state.attempts if a.key == state.key]
    if any(a.state == "done" for a in mine):
        return f"already tried on the data up to {state.data_end:%Y-%m-%d}; waiting for more", None
    if state.trained_until is not None and state.trained_until >= state.data_end and not mine:
        return f"already trained on the data up to {state.data_end:%Y-%m-%d}; waiting for more", None
    failures = max((a.failures for a in mine), default=0)
    if failures >= policy.attempts:
        return f"failed {failures} times on the data up to {state.data_end:%Y-%m-%d}; fix the cause, or wait for more data", None
    if failures and not (failures == 1 and mine[-1].state == "killed"):  # the first time that it was cut off, it simply goes on
        last = max(a.ended or a.begun for a in mine)
        again = _after(last, policy.retry * (1 << min(failures - 1, 20)), now)
        if now < again:
            return f"failed {failures} times; trying again at {again:%Y-%m-%d %H:%M} UTC", again
    warm = max((_after(a.begun, policy.cooldown, now) for a in state.attempts if a.state == "done"), default=now)
    if now < warm:
        return f"cooling down until {warm:%Y-%m-%d %H:%M} UTC", warm
    return "", None
