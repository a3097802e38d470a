"""Who is next, who has had enough, and when work stops (SECURITY M5, M6; limits per principal)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import _Held, _Shares
from serving.context import RequestContext
from serving.errors import OverloadedError, RateLimitedError, TimedOutError
from serving.fair_queue import FairQueue, Waiting
from serving.limits import PrincipalLimits
from serving.settings import LimitSettings


def waiting(client: str, cost: float = 1.0, heavy: bool = False, item: Any = None) -> Waiting[Any]:
    return Waiting(item or f"{client}{cost}", client, cost, heavy)


def drained(queue: FairQueue[Any], heavy: bool = True) -> list[str]:
    out = []
    while (w := queue.pop(heavy)) is not None:
        out.append(w.client)
    return out


def test_turns_go_by_what_requests_cost() -> None:
    """SECURITY M6: sixteen clients with large requests and one with small ones: its small ones are not behind all of theirs."""
    queue: FairQueue[Any] = FairQueue()
    for i in range(64):
        assert queue.push(waiting(f"large{i % 16}", 500_000.0, heavy=True), 1000) is None
    for _ in range(16):
        queue.pop(True)  # each has had a turn
    for _ in range(10):
        queue.push(waiting("small", 2_500.0), 1000)
    assert drained(queue)[:10] == ["small"] * 10


def test_nobody_saves_up_turns() -> None:
    queue: FairQueue[Any] = FairQueue()
    for _ in range(100):
        queue.push(waiting("busy"), 1000)
        queue.pop(True)
    for _ in range(4):
        queue.push(waiting("busy"), 1000)
        queue.push(waiting("late"), 1000)
    assert sorted(drained(queue)[:4]) == ["busy", "busy", "late", "late"]


def test_large_requests_wait_while_their_threads_are_busy() -> None:
    queue: FairQueue[Any] = FairQueue()
    queue.push(waiting("a", heavy=True), 10)
    queue.push(waiting("a", 5.0), 10)
    queue.push(waiting("b", heavy=True), 10)
    assert drained(queue, heavy=False) == ["a"]
    assert len(queue) == 2 and sorted(drained(queue)) == ["a", "b"]


def test_a_full_queue_takes_from_whoever_has_most() -> None:
    queue: FairQueue[Any] = FairQueue()
    for i in range(8):
        assert queue.push(waiting("greedy", item=f"g{i}"), 8) is None
    assert queue.push(waiting("other", item="o0"), 8) == "g7"
    assert queue.push(waiting("greedy", item="g8"), 8) == "g8"
    assert [queue.push(waiting("other", item=f"o{i}"), 8) for i in (1, 2, 3)] == ["g6", "g5", "g4"]
    assert queue.push(waiting("other", item="o4"), 8) == "o4"
    assert queue.push(waiting("none"), 0) is not None
    assert len(queue) == 8


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(1, 100)) | st.sampled_from([True, False, "remove"]), max_size=60)
)
def test_every_request_leaves_once(steps: list[Any]) -> None:
    queue: FairQueue[Any] = FairQueue()
    inside: set[int] = set()
    held: dict[int, Waiting[Any]] = {}
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            held[number] = Waiting(number, step[0], step[2], step[1])
            inside.add(number)
            if (out := queue.push(held[number], 5)) is not None:
                inside.remove(out)
        elif step == "remove":
            gone = next(iter(inside), None)
            if gone is not None:
                assert queue.remove(held[gone]) and not queue.remove(held[gone])
                inside.remove(gone)
        elif (w := queue.pop(step)) is not None:
            assert step or not w.heavy
            inside.remove(w.item)
        assert len(queue) == len(inside) <= 5


def test_one_client_has_half_of_the_room() -> None:
    """SECURITY M5: of the bytes of bodies as of the places."""
    shares = _Shares(100)
    a, b, c, again = (_Held(shares, name) for name in ("a", "b", "c", "a"))
    a.take(50)
    with pytest.raises(OverloadedError):
        a.take(1)
    a.take(50)  # who is refused has given back what it had
    b.take(40)
    c.take(10)
    with pytest.raises(OverloadedError):
        c.take(1)
    b.take(10)
    b.give_back()
    with pytest.raises(OverloadedError):
        again.take(1)
    for held in (a, b, c, again):
        held.give_back()
        held.give_back()  # nothing a second time
    a.take(50)
    a.give_back()
    assert not shares._taken and not shares._by


def test_rates_and_rows_have_bursts_and_debts() -> None:
    now = [0.0]
    limits = PrincipalLimits(
        LimitSettings(requests_per_second=2, burst_seconds=2),
        {"vip": LimitSettings(), "rows": LimitSettings(rows_per_second=100, burst_seconds=1)},
        clock=lambda: now[0],
    )
    for _ in range(4):
        limits.admit("principal a", "a")
    with pytest.raises(RateLimitedError, match=r"more than 2 requests per second; try again in 0\.5 s") as refused:
        limits.admit("principal a", "a")
    assert refused.value.retry_seconds == 0.5
    limits.admit("principal b", "b")
    now[0] = 0.5
    limits.admit("principal a", "a")
    for _ in range(1_000):
        limits.admit("principal vip", "vip")
    limits.admit("principal rows", "rows")
    limits.charge("principal rows", "rows", 1_000)
    with pytest.raises(RateLimitedError, match=r"more than 100 rows per second; try again in 9\.0 s"):
        limits.admit("principal rows", "rows")
    now[0] = 9.6
    limits.admit("principal rows", "rows")


def test_callers_are_forgotten_before_they_fill_the_memory() -> None:
    limits = PrincipalLimits(LimitSettings(requests_per_second=1))
    for i in range(10_500):
        limits.admit(f"address {i}", "")
    assert len(limits._buckets) == 10_000


def test_work_stops_at_its_deadline() -> None:
    now = [5.0]
    context = RequestContext(deadline=6.0, clock=lambda: now[0])
    context.check()
    now[0] = 6.1
    with pytest.raises(TimedOutError):
        context.check()
