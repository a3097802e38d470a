"""Which events are too late: told by a partition's own log, whatever the pieces that it is read in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.compare import differences, to_dicts
from tests.oracle.strategies import HOUR, make_source, to_batch
from tests.unit.stream_log import Partition, checked, judged
from transforms.lateness import NEVER, split_late, watermark_of

MINUTE = 60_000_000


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Partition]:
    """A source and a partition whose event times lie on, and one beside, the borders of what is too late."""
    slack, late = draw(st.sampled_from([0, 1, MINUTE])), draw(st.sampled_from([0, 1, HOUR]))
    source = make_source(delay_us=slack, lateness_us=late)
    back = st.sampled_from([0, 1, -1, slack, slack + 1, late, slack + late - 1, slack + late, slack + late + 1, 5 * HOUR, -HOUR])
    at, offset, records = 10 * HOUR, draw(st.sampled_from([0, 5])), []
    start = offset
    for _ in range(draw(st.integers(0, 20))):
        offset += draw(st.sampled_from([0, 0, 2]))
        time = max(0, at - draw(back))
        at = max(at, time) if draw(st.booleans()) else time
        good = draw(st.integers(0, 5)) > 0
        records.append((offset, {"departed_at": time, "origin": "EWR", "gate": 1, "flight": "f", "serial": offset} if good else None))
        offset += 1
    return source, Partition(start, records, offset)


@given(cases(), st.lists(st.integers(0, 60), max_size=6), st.sampled_from([None, 9 * HOUR, 10 * HOUR, 10 * HOUR + 1, 99 * HOUR]))
@settings(max_examples=120)
def test_the_verdict_is_the_logs_however_it_is_cut(case: tuple[Any, Partition], cuts: list[int], begin: int | None) -> None:
    source, partition = case
    want = judged(partition, source, begin)
    got: list[tuple[int, dict[str, Any], str]] = []
    newest, before, at = NEVER, 0, 0
    for cut in [*sorted(cuts), partition.end]:
        verdict, offsets = checked([(o, e) for o, e in partition.records if at <= o < cut], source)
        taken = split_late(verdict, offsets, source, newest, NEVER if begin is None else begin)
        for batch, numbers, word in ((taken.events, taken.offsets, "in"), (taken.late, taken.late_offsets, "late")):
            assert batch.schema.equals(source.arrow_schema) and numbers.dtype == np.int64
            got += [(int(o), e, word) for o, e in zip(numbers, to_dicts(batch), strict=True)]
        newest, before, at = taken.newest, before + taken.before, max(at, cut)
    assert before == sum(word == "before" for _, _, word in want)
    assert newest == max((e["departed_at"] for _, e, _ in want), default=NEVER)
    for word in ("in", "late"):
        found, wanted = [(o, e) for o, e, w in got if w == word], [(o, e) for o, e, w in want if w == word]
        assert [o for o, _ in found] == [o for o, _ in wanted]
        whole = to_dicts(to_batch([e for _, e in wanted], source))
        assert differences([e for _, e in found], whole) == []


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
