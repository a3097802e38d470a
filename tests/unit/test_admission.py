"""Who is next, who has had enough, and when work stops (SECURITY M5, M6; limits per principal)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.arrivals import Arrival, Arrivals, Shares
from serving.context import RequestContext
from serving.fair_queue import FairQueue, Waiting
from serving.limits import PrincipalLimits
from serving.request_errors import OverloadedError, RateLimitedError, TimedOutError
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


class Arriving:
    """Arrivals at a clock of the test's own; ``ended`` are those that gave way."""

    def __init__(self, places: int = 100, memory: int = 10_000) -> None:
        self.now = 0.0
        self.all = Arrivals(Shares(places), Shares(memory), clock=lambda: self.now)
        self.ended: list[Arrival] = []

    def enter(self, client: str = "a") -> Arrival:
        arrival = self.all.enter(client, lambda: self.ended.append(arrival))
        return arrival

    def empty(self) -> bool:
        return not any((self.all.places._taken, self.all.places._by, self.all.memory._taken, self.all.memory._by, self.all._under_way))


def test_one_client_has_half_of_the_room() -> None:
    """SECURITY M5: of the bytes of bodies as of the places."""
    arriving = Arriving(memory=100)
    a, b, c, again = (arriving.enter(name) for name in ("a", "b", "c", "a"))
    received = arriving.all.received
    received(a, 50)
    with pytest.raises(OverloadedError):
        received(a, 1)
    received(a, 50)  # who is refused has given back what it had
    received(b, 40)
    received(c, 10)
    with pytest.raises(OverloadedError):
        received(c, 1)
    received(b, 10)
    arriving.all.leave(b)
    with pytest.raises(OverloadedError):
        received(again, 1)
    for arrival in (a, b, c, again):
        arriving.all.leave(arrival)
        arriving.all.leave(arrival)  # nothing a second time
    assert arriving.empty() and not arriving.ended


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("rate", [160, 600, 5_000])
def test_an_overload_of_bodies_that_do_arrive_keeps_none_of_them_from_being_done(seconds: float, rate: int) -> None:
    """SECURITY M5: each that came took the place of the one that was nearest to its end, and hardly any was answered."""
    arriving, places = Arriving(places=288), 144
    under_way: list[tuple[float, Arrival]] = []
    done = refused = 0
    busy: list[float] = []  # the oracle: who comes when all places are taken is refused, and nothing else happens
    could = 0
    for i in range(3_000):
        arriving.now = now = i / rate
        while under_way and under_way[0][0] <= now:
            _, arrival = under_way.pop(0)
            if not arrival.gave_way:
                arriving.all.received(arrival, 100)
                arriving.all.whole(arrival)
                arriving.all.leave(arrival)
                done += 1
        try:
            under_way.append((now + seconds, arriving.enter()))
        except OverloadedError:
            refused += 1
        busy = [end for end in busy if end > now]
        if len(busy) < places:
            busy.append(now + seconds)
            could += 1
    waiting = [arrival for _, arrival in under_way if not arrival.gave_way]
    assert len(waiting) == len(arriving.all._under_way.get("a", ())) and done + len(waiting) + len(arriving.ended) + refused == 3_000
    assert done + len(waiting) >= 0.97 * could
    assert all("at its limit of requests" in arrival.gave_way for arrival in arriving.ended)


def test_of_the_places_slow_bodies_give_way_first_and_then_what_brought_least() -> None:
    """SECURITY H4, M5: heads without bodies, and bodies of a byte now and then, keep nobody out."""
    arriving = Arriving(places=8, memory=100_000)
    silent, steady, trickling, young = (arriving.enter() for _ in range(4))
    for _ in range(10):
        arriving.now += 0.2
        arriving.all.received(steady, 300)
        arriving.all.received(trickling, 1)
        arriving.all.received(young, 299)
    came = [arriving.enter() for _ in range(2)]
    assert arriving.ended == [silent, trickling] and all("too slow" in a.gave_way for a in arriving.ended)
    third = arriving.enter()
    assert arriving.ended[2:] == [came[1]] and "at its limit of requests" in came[1].gave_way
    arriving.all.received(came[0], 1)
    assert arriving.enter() and arriving.ended[3:] == [third], "none of those that bring something"
    arriving.enter("b")
    assert len(arriving.ended) == 4, "and none of another client's while there is room"


def test_a_body_that_came_fast_and_then_drips_is_slow() -> None:
    """SECURITY H4, M5: two clients held all memory by a burst, and kept it by a byte now and then: a third one was refused for ever."""
    arriving = Arriving(memory=4_000_000)
    drips = [arriving.enter(client) for client in "xy" for _ in range(2)]
    for arrival in drips:
        arriving.all.received(arrival, 999_990)
    steady = arriving.enter("steady")
    for _ in range(3):
        arriving.now += 0.9
        for arrival in drips:
            arriving.all.received(arrival, 1)
        arriving.all.received(steady, 5)
    assert not arriving.ended
    for _ in range(2):
        arriving.now += 0.9
        arriving.all.received(steady, 1_200)
    assert len(arriving.ended) == 1, "there is room again"
    third = arriving.enter("third")
    arriving.all.received(third, 1_500_000)
    assert len(arriving.ended) == 2 and {*arriving.ended} <= {*drips} and all("too slow" in a.gave_way for a in arriving.ended)
    assert not steady.slow(arriving.now) and steady.slow(arriving.now + 1.0), "it is no slow one that only began slowly, until it stops"


def test_bytes_of_slow_bodies_are_given_back_whoever_has_most() -> None:
    """SECURITY M5: whoever had most held it in whole bodies, and a byte of another one was refused, with silent bodies beside."""
    arriving = Arriving(memory=100)
    received, whole = arriving.all.received, arriving.enter("x")
    received(whole, 40)
    arriving.all.whole(whole)
    silent = []
    for i in range(6):
        silent.append(arriving.enter(f"s{i}"))
        received(silent[-1], 10)
        arriving.now += 0.001
    arriving.now = 60.0
    late = arriving.enter("y")
    received(late, 1)
    assert arriving.ended == silent[:1] and "too slow" in silent[0].gave_way
    received(late, 19)
    assert arriving.ended == silent[:2], "the one that is slow for longest first, and no more than are needed"
    arriving.now = 61.5
    received(silent[2], 1)
    assert arriving.ended == silent[:2] + silent[3:4], "a client with a slow body has others give way, too; nobody gives way to itself"
    arriving.all.whole(late)
    with pytest.raises(OverloadedError):
        received(arriving.enter("y"), 31)
    assert len(arriving.ended) == 3, "beyond its half a client gives back its own, and it has no slow one"


def test_who_is_beyond_its_half_gives_first_of_its_own_and_then_as_others() -> None:
    arriving = Arriving(memory=100)
    other, young, whole, own = arriving.enter("a"), arriving.enter("b"), arriving.enter("c"), arriving.enter("y")
    for arrival, n in ((other, 40), (young, 10), (whole, 45), (own, 5)):
        arriving.all.received(arrival, n)
    arriving.all.whole(whole)
    arriving.now = 2.0
    arriving.all.received(arriving.enter("y"), 48)
    assert arriving.ended == [own, other, young], "5 of its own for its half, 43 of others' for all"


def test_nothing_is_taken_from_slow_bodies_where_it_is_not_enough() -> None:
    """Bytes that wait for their answer give way to nobody: all slow bodies of that client gave theirs for a request that was refused."""
    arriving = Arriving(memory=4_000)
    slow = [arriving.enter() for _ in range(5)]
    for arrival in slow[1:]:
        arriving.all.received(arrival, 10)
    arriving.now = 5.0
    queued = [arriving.enter() for _ in range(2)]
    for arrival in queued:
        arriving.all.received(arrival, 900)
        arriving.all.whole(arrival)
    new = arriving.enter()
    with pytest.raises(OverloadedError, match="at its limit of requests"):
        arriving.all.received(new, 900)
    assert not arriving.ended
    arriving.all.received(arriving.enter(), 180)  # 2,000 are this client's: 20 are missing
    assert arriving.ended == slow[1:3], "no more than are needed, and none that holds nothing"
    with pytest.raises(OverloadedError):
        arriving.all.received(slow[4], 2_000)
    assert arriving.ended == slow[1:3], "nobody gives way to itself"
    for arrival in (*slow, *queued):
        arriving.all.leave(arrival)
    assert arriving.all.memory._by == {"a": 180}


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
