"""Which events are too late: told by a partition's own log, whatever the pieces that it is read in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle.compare import differences, to_dicts
from tests.oracle.strategies import HOUR, make_source, to_batch
from tests.unit.stream_log import Partition, checked, judged
from transforms import lateness
from transforms.lateness import NEVER, split_late, watermark_of

MINUTE = 60_000_000


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Partition]:
    """A source and a partition whose event times lie on, and one beside, the borders of what is too late and of what leaps."""
    slack, late = draw(st.sampled_from([0, 1, MINUTE])), draw(st.sampled_from([0, 1, HOUR]))
    source = make_source(delay_us=slack, lateness_us=late)
    limit = draw(st.sampled_from([None, None, 0, MINUTE, 2 * HOUR]))
    far = max(limit or 0, slack + late)
    back = st.sampled_from([0, 1, -1, slack, slack + 1, late, slack + late - 1, slack + late, slack + late + 1, 5 * HOUR, -HOUR])
    ahead = st.sampled_from([0, 0, 0, far, far + 1, far + 1, 9 * HOUR])
    at, offset, records = 10 * HOUR, draw(st.sampled_from([0, 5])), []
    start = offset
    for _ in range(draw(st.integers(0, 40))):
        offset += draw(st.sampled_from([0, 0, 2]))
        time = max(0, at - draw(back) + (0 if limit is None else draw(ahead)))
        at = max(at, time) if draw(st.booleans()) else at if limit is not None and time > at + far and draw(st.booleans()) else time
        good = draw(st.integers(0, 5)) > 0
        records.append((offset, {"departed_at": time, "origin": "EWR", "gate": 1, "flight": "f", "serial": offset} if good else None))
        offset += 1
    return source, Partition(start, records, offset, limit)


@pytest.mark.parametrize("pace", [(16_384, 64), (5, 2), (2, 1)])
@given(cases(), st.lists(st.integers(0, 60), max_size=6), st.sampled_from([None, 9 * HOUR, 10 * HOUR, 10 * HOUR + 1, 99 * HOUR]))
@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_verdict_is_the_logs_however_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, pace: tuple[int, int], case: tuple[Any, Partition], cuts: list[int], begin: int | None
) -> None:
    """FAULTS 2: which event is too late, and how far event time is, follows from the log alone, leaps and all."""
    monkeypatch.setattr(lateness, "STRETCH", pace[0])
    monkeypatch.setattr(lateness, "STEPS", pace[1])
    source, partition = case
    want = judged(partition, source, begin)
    got: list[tuple[int, dict[str, Any], str]] = []
    leaps: tuple[int, ...] = ()
    newest, before, at, greatest = NEVER, 0, 0, NEVER
    for cut in [*sorted(cuts), partition.end]:
        verdict, offsets = checked([(o, e) for o, e in partition.records if at <= o < cut], source)
        taken = split_late(verdict, offsets, source, newest, NEVER if begin is None else begin, leaps, partition.limit)
        for batch, numbers, word in ((taken.events, taken.offsets, "in"), (taken.late, taken.late_offsets, "late")):
            assert batch.schema.equals(source.arrow_schema) and numbers.dtype == np.int64
            got += [(int(o), e, word) for o, e in zip(numbers, to_dicts(batch), strict=True)]
        newest, leaps, before, at = taken.newest, taken.leaps, before + taken.before, max(at, cut)
        greatest = max(greatest, taken.greatest)
        assert (newest, leaps) == partition.reached(source, at)
    assert before == sum(word == "before" for _, _, word in want)
    assert greatest == max((e["departed_at"] for _, e, _ in want), default=NEVER)
    for word in ("in", "late"):
        found, wanted = [(o, e) for o, e, w in got if w == word], [(o, e) for o, e, w in want if w == word]
        assert [o for o, _ in found] == [o for o, _ in wanted]
        whole = to_dicts(to_batch([e for _, e in wanted], source))
        assert differences([e for _, e in found], whole) == []


def one_a_minute(n: int, wrong: dict[int, float]) -> Partition:
    """``n`` events a minute apart, those in ``wrong`` so many hours further ahead."""
    times = [10 * HOUR + k * MINUTE + round(wrong.get(k, 0) * HOUR) for k in range(n)]
    return Partition(
        0, [(k, {"departed_at": t, "origin": "", "gate": 0, "flight": "", "serial": k}) for k, t in enumerate(times)], n, 6 * MINUTE
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {10: 9},
        {0: 9},
        {1: 9},
        {199: 9},
        {10: 0.5},
        {10: 24 * 365 * 50},
        {10: 9, 11: 9.1, 12: 9.2, 13: 9.0},
        dict.fromkeys(range(3, 200, 10), 9),
        {k: k for k in range(5, 200, 5)},
    ],
)
def test_clocks_that_run_ahead_make_no_other_event_too_late(wrong: dict[int, float]) -> None:
    """FAULTS 2."""
    source = make_source(delay_us=MINUTE, lateness_us=HOUR)
    partition = one_a_minute(200, wrong)
    verdict, offsets = checked(partition.records, source)
    taken = split_late(verdict, offsets, source, NEVER, limit_us=partition.limit)
    assert taken.late.num_rows == 0 and taken.events.num_rows == 200
    assert taken.newest <= 10 * HOUR + 199 * MINUTE + (HOUR // 2 if 0.5 in wrong.values() else 0)
    assert taken.newest >= 10 * HOUR + 198 * MINUTE
    if wrong == {10: 9}:  # the rule of before
        assert split_late(verdict, offsets, source, NEVER).late.num_rows == 189


def test_a_gap_is_believed_after_ten_events() -> None:
    """FAULTS 2: time goes on after a night without events."""
    source = make_source(delay_us=MINUTE, lateness_us=HOUR)
    partition = one_a_minute(60, dict.fromkeys(range(30, 60), 9))
    for n in (30, 39, 40, 60):
        verdict, offsets = checked(partition.records[:n], source)
        taken = split_late(verdict, offsets, source, NEVER, limit_us=partition.limit)
        assert taken.newest == (10 * HOUR + 29 * MINUTE if n < 40 else 19 * HOUR + (n - 1) * MINUTE)
        assert len(taken.leaps) == (n - 30 if 30 <= n < 40 else 0)


@pytest.mark.parametrize(("back", "late"), [(0, False), (HOUR + MINUTE, False), (HOUR + MINUTE + 1, True)])
def test_allowed_lateness_is_inclusive(back: int, late: bool) -> None:
    source = make_source(delay_us=MINUTE, lateness_us=HOUR)
    verdict, offsets = checked([(3, {"departed_at": 9 * HOUR - back, "origin": "", "gate": 0, "flight": "", "serial": 0})], source)
    taken = split_late(verdict, offsets, source, 9 * HOUR)
    assert (taken.events.num_rows, taken.late.num_rows) == ((0, 1) if late else (1, 0))
    assert taken.newest == 9 * HOUR


def test_the_watermark_is_the_newest_event_less_the_out_of_orderness() -> None:
    source = make_source(delay_us=MINUTE)
    assert watermark_of(source, HOUR) == HOUR - MINUTE
    assert watermark_of(source, NEVER) == NEVER
