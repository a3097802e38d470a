"""What the watch decides: by table, by properties, and over a made-up month."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.project.config import WatchSettings
from pipelines.watch.decide import Attempt, Champion, Decision, Findings, Look, Policy, Retrain, State, Waiting, decide, triggers
from tests.examples import examples

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICY = Policy()
CHAMPION, SEVEN = Champion(1, NOW - DAY, 1), Champion(1, NOW - DAY, 7)
DRIFT = Findings(1, drifted=("view:feature",))
CALM = State(POLICY, CHAMPION, NOW - DAY, "now", Findings(1), NOW - timedelta(minutes=10), (), NOW - 2 * DAY)
"""Looked a while ago, nothing found; one day of events is new."""


def state(**changes: Any) -> State:
    return replace(CALM, **changes)


def done(key: str = "before", ago: timedelta = 3 * DAY) -> Attempt:
    return Attempt(key, "done", NOW - ago, NOW - ago + HOUR)


def broken(failures: int, ago: timedelta, how: Any = "failed", key: str = "now") -> Attempt:
    return Attempt(key, how, NOW - ago, NOW - ago, failures)


TABLE: list[tuple[str, State, type | None, str]] = [
    ("never looked", state(looked=None), Look, ""),
    ("look due", state(looked=NOW - HOUR), Look, ""),
    ("look due comes before a training", state(looked=NOW - HOUR, findings=DRIFT), Look, ""),
    ("nothing to do", CALM, None, ""),
    ("drift", state(findings=DRIFT), Retrain, ""),
    ("drift is off", state(findings=DRIFT, policy=replace(POLICY, drift=False)), None, ""),
    ("drift against another version", state(findings=replace(DRIFT, version=2)), None, ""),
    ("decay", state(findings=Findings(1, decayed=("auc",))), Retrain, ""),
    ("decay is off", state(findings=Findings(1, decayed=("auc",)), policy=replace(POLICY, decay=False)), None, ""),
    ("age", state(champion=Champion(1, NOW - 31 * DAY, 1)), Retrain, ""),
    ("not old enough", state(champion=Champion(1, NOW - 30 * DAY, 1)), None, ""),
    ("age is off", state(champion=Champion(1, NOW - 90 * DAY, 1), policy=replace(POLICY, champion_age=None)), None, ""),
    ("nobody knows how old", state(champion=Champion(1, None, 1)), None, ""),
    ("seven new days", state(champion=SEVEN), Retrain, ""),
    ("six new days", state(champion=Champion(1, NOW - DAY, 6)), None, ""),
    ("no new days", state(champion=Champion(1, NOW - DAY, 70), policy=replace(POLICY, new_data=None)), None, ""),
    ("found before the monitor failed", state(findings=replace(DRIFT, decayed=("auc",)), blind=True), None, ""),
    ("broken before the monitor failed", state(findings=Findings(1, (), (), ("unit",)), champion=SEVEN, blind=True), None, "broken"),
    ("a challenger waits", state(findings=DRIFT, waiting=Waiting(2, 6)), None, "'tandem promote', or for 1 more"),
    ("a challenger has waited", state(findings=DRIFT, waiting=Waiting(2, 7)), Retrain, ""),
    ("nobody knows what a challenger missed", state(findings=DRIFT, waiting=Waiting(2)), Retrain, ""),
    ("nor is that asked", state(findings=DRIFT, waiting=Waiting(2), policy=replace(POLICY, new_data=None)), Retrain, ""),
    ("nobody knows what the champion missed", state(champion=Champion(1, NOW - DAY)), None, ""),
    ("a challenger waits for ever", state(findings=DRIFT, waiting=Waiting(2, 9), policy=replace(POLICY, new_data=None)), None, "version 2"),
    ("no champion", state(champion=None, findings=DRIFT), None, ""),
    ("no events", state(data_end=None, key=None, findings=DRIFT), None, "no whole days"),
    ("somebody trains", state(findings=DRIFT, training="train-1"), None, "is running: train-1"),
    ("somebody retrains", state(findings=DRIFT, attempts=(Attempt("now", "running", NOW - HOUR),)), None, "is running"),
    ("a producer sends another unit", state(findings=replace(DRIFT, broken=("unit departures.dep_delay",))), None, "looks broken"),
    ("trained on it already", state(findings=DRIFT, trained_until=NOW - DAY), None, "already trained"),
    ("tried on it already", state(findings=DRIFT, attempts=(done("now"),), trained_until=NOW - DAY), None, "already tried"),
    ("tried on older data", state(findings=DRIFT, attempts=(done(),)), Retrain, ""),
    ("cooling down", state(findings=DRIFT, attempts=(done(ago=HOUR),)), None, "cooling down"),
    ("killed: goes on at once", state(findings=DRIFT, attempts=(broken(1, timedelta(0), "killed"),)), Retrain, ""),
    ("killed after training", state(findings=DRIFT, attempts=(broken(1, HOUR, "killed"),), trained_until=NOW - DAY), Retrain, ""),
    ("killed twice: waits", state(findings=DRIFT, attempts=(broken(2, HOUR / 2, "killed"),)), None, "failed 2 times; trying again"),
    ("asked to stop: goes on at once", state(findings=DRIFT, attempts=(broken(0, timedelta(0), "stopped"),)), Retrain, ""),
    ("failed just now", state(findings=DRIFT, attempts=(broken(1, HOUR / 4),)), None, "trying again"),
    ("failed a while ago", state(findings=DRIFT, attempts=(broken(1, HOUR / 2),)), Retrain, ""),
    ("failed twice, a while ago", state(findings=DRIFT, attempts=(broken(2, HOUR / 2),)), None, "trying again"),
    ("failed twice, longer ago", state(findings=DRIFT, attempts=(broken(2, HOUR),)), Retrain, ""),
    ("failed too often", state(findings=DRIFT, attempts=(broken(3, 9 * DAY),)), None, "fix the cause"),
    ("looked in a year", state(looked=NOW + 365 * DAY), Look, ""),
    ("failed in a year", state(findings=DRIFT, attempts=(broken(1, -365 * DAY),)), Retrain, ""),
    ("done in a year", state(findings=DRIFT, attempts=(done(ago=-365 * DAY),)), Retrain, ""),
    ("done on this data in a year", state(findings=DRIFT, attempts=(done("now", -365 * DAY),)), None, "already tried"),
    ("failed too often on older data", state(findings=DRIFT, attempts=(broken(3, HOUR, key="before"),)), Retrain, ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given_state", "action", "held"), TABLE, ids=[t[0] for t in TABLE])
def test_table(name: str, given_state: State, action: type | None, held: str) -> None:
    decision = decide(given_state, NOW)
    assert (None if decision.action is None else type(decision.action)) is action
    assert held in decision.held and bool(held) == bool(decision.held)
    if action is None:
        assert NOW < decision.until <= CALM.looked + POLICY.every  # type: ignore[operator]


def test_another_machine_s_clock_may_be_ahead_by_seconds() -> None:
    decision = decide(state(looked=NOW + timedelta(seconds=2)), NOW)
    assert decision.action is None and decision.until == NOW + timedelta(seconds=2) + POLICY.every


def test_a_try_before_this_one_is_gone_on_with() -> None:
    fresh, again = decide(state(findings=DRIFT), NOW), decide(state(findings=DRIFT, attempts=(broken(1, HOUR),)), NOW)
    assert isinstance(fresh.action, Retrain) and not fresh.action.resume
    assert isinstance(again.action, Retrain) and again.action.resume


def test_triggers_say_why() -> None:
    found = triggers(state(findings=Findings(1, ("a", "b", "c", "d", "e"), ("auc",)), champion=Champion(1, NOW - 40 * DAY, 10)), NOW)
    assert [(t.name, t.why) for t in found] == [
        ("drift", "a, b, c and 2 more drifted"),
        ("decay", "auc on labelled requests"),
        ("age", "version 1 is 40.0 days old"),
        ("new_data", "10 days of events since version 1 was trained"),
    ]


def test_settings_are_the_policy() -> None:
    assert Policy.of(WatchSettings()) == POLICY
    assert Policy.of(WatchSettings(every="90s", champion_days=None, new_days=2)).every == timedelta(seconds=90)
    with pytest.raises(ValueError, match="is not a duration"):
        WatchSettings(every="soon")


moments = st.integers(-60 * 24, 24).map(lambda hours: NOW + hours * HOUR)
keys = st.sampled_from(["now", "before", "long before"])
attempts = st.builds(
    Attempt, keys, st.sampled_from(["running", "done", "failed", "killed", "stopped"]), moments, st.none() | moments, st.integers(0, 5)
)
names = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(tuple)
states = st.builds(
    State,
    policy=st.builds(
        Policy,
        every=st.sampled_from([HOUR, timedelta(minutes=5), DAY]),
        drift=st.booleans(),
        decay=st.booleans(),
        champion_age=st.none() | st.just(30 * DAY),
        new_data=st.none() | st.just(7 * DAY),
        cooldown=st.sampled_from([timedelta(0), DAY]),
        attempts=st.integers(1, 4),
        retry=st.just(HOUR / 2),
    ),
    champion=st.none() | st.builds(Champion, st.integers(1, 3), st.none() | moments, st.none() | st.integers(0, 20)),
    data_end=st.none() | moments,
    key=st.none() | st.just("now"),
    findings=st.none() | st.builds(Findings, st.none() | st.integers(1, 3), names, names, names),
    looked=st.none() | moments,
    attempts=st.lists(attempts, max_size=4).map(tuple),
    trained_until=st.none() | moments,
    training=st.sampled_from(["", "", "train-1"]),
    blind=st.booleans(),
    waiting=st.none() | st.builds(Waiting, st.integers(1, 3), st.none() | st.integers(0, 20)),
)


@settings(max_examples=examples(400))
@given(states)
def test_whatever_is_known_a_training_is_begun_for_a_reason_and_alone(found: State) -> None:
    decision = decide(found, NOW)
    assert decision == decide(found, NOW)
    if decision.action is None:
        assert decision.until > NOW
        assert bool(decision.held) == bool(decision.triggers)
    if isinstance(decision.action, Look):
        assert found.looked is None or NOW - found.looked >= found.policy.every or found.looked - NOW > found.policy.every
    if isinstance(decision.action, Retrain):
        assert decision.triggers and decision.triggers == triggers(found, NOW)
        assert found.champion is not None and found.key == decision.action.key
        assert not found.training and all(a.state != "running" for a in found.attempts)
        assert not (found.findings and found.findings.broken)
        mine = [a for a in found.attempts if a.key == found.key]
        assert all(a.state != "done" and a.failures < found.policy.attempts for a in mine)
        passed = [NOW - a.begun for a in found.attempts if a.state == "done"]  # before now, or further ahead than it could wait
        assert all(p >= found.policy.cooldown or -p > found.policy.cooldown for p in passed)


@settings(max_examples=examples(200))
@given(states, st.integers(1, 10_000))
def test_a_clock_that_was_ahead_silences_nobody(found: State, days: int) -> None:
    """Whatever the moments are that a clock wrote which ran ahead, and was set back: nothing waits for it to come there again."""
    ahead = days * DAY
    looked = None if found.looked is None else found.looked + ahead
    tries = tuple(replace(a, begun=a.begun + ahead, ended=a.ended and a.ended + ahead) for a in found.attempts)
    decision = decide(replace(found, looked=looked, attempts=tries), NOW)
    longest = max(found.policy.every, found.policy.cooldown, found.policy.retry * 32)
    assert decision.until <= NOW + 2 * longest


@settings(max_examples=examples(60))
@given(st.lists(st.sampled_from(["promoted", "refused", "failed", "killed"]), min_size=1, max_size=8), st.integers(1, 6), st.booleans())
def test_a_month_of_drift_never_trains_twice_on_the_same_data(outcomes: list[str], hours: int, drifts: bool) -> None:
    """A world that drifts on and on, where trainings end as they like: the watch is asked whenever it said to be asked again."""
    now, tries, learnt = NOW, 0, NOW - 5 * DAY
    world = state(findings=DRIFT if drifts else Findings(1), looked=None, champion=Champion(1, NOW - 29 * DAY))
    begun: list[tuple[str, datetime, str]] = []
    for _ in range(3000):
        if now > NOW + 30 * DAY:
            break
        day = now.replace(hour=0)
        assert world.champion is not None
        world = replace(world, data_end=day, key=f"{day:%Y-%m-%d}", champion=replace(world.champion, new_days=(day - learnt) // DAY))
        decision: Decision = decide(world, now)
        if isinstance(decision.action, Look):
            world = replace(world, looked=now)
        elif isinstance(decision.action, Retrain):
            key, outcome = decision.action.key, outcomes[tries % len(outcomes)]
            tries += 1
            begun.append((key, now, outcome))
            failures = sum(k == key and o in ("failed", "killed") for k, _, o in begun)
            ended = now + hours * HOUR
            how: Any = outcome if outcome in ("failed", "killed") else "done"
            world = replace(world, attempts=(*(a for a in world.attempts if a.key != key), Attempt(key, how, now, ended, failures)))
            if how == "done":
                world = replace(world, trained_until=day)
            if outcome == "promoted" and world.champion is not None:
                version, learnt = world.champion.version + 1, day
                world = replace(world, champion=Champion(version, now), findings=replace(world.findings or DRIFT, version=version))
            now = ended
        else:
            assert decision.until > now
            now = decision.until
    else:
        pytest.fail("it never comes to the end of the month")
    well = [(k, t) for k, t, o in begun if o not in ("failed", "killed")]
    assert len({k for k, _ in well}) == len(well)  # once on the same data
    assert all(later - earlier >= POLICY.cooldown for (_, earlier), (_, later) in itertools.pairwise(well))
    assert all(sum(k == key for k, _, _ in begun) <= POLICY.attempts for key, _, _ in begun)
    assert bool(begun) or not drifts  # without drift, age alone brings it about, if nothing else is tried
