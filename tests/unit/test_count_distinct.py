"""FAULTS 31: CountDistinct was off by one at small counts (15 for 16). It is exact up to 256, then HyperLogLog, and one monoid."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle import features as oracle
from tests.oracle import rows as oracle_rows
from tests.oracle.compare import differences, to_dicts
from tests.oracle.strategies import make_group, make_source, to_batch
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import CountDistinct, hours
from transforms.functions import count_distinct
from transforms.functions.aggregate import Events
from transforms.functions.count_distinct import EXACT, Distinct

HOUR = 3_600_000_000
FOREVER = 10**15
GROUP = make_group(
    [
        CountDistinct("s", over=[hours(1), hours(5)]),
        CountDistinct("n", over=[hours(2), hours(24)], precision=4),
        CountDistinct("x", over=hours(3), precision=16),
    ]
)


def event(at: int, value: int, **more: Any) -> dict[str, Any]:
    return {"departed_at": at, "origin": "EWR", "gate": 1, "flight": "f", "serial": 1, "s": f"v{value}", "n": value, "x": value / 7, **more}


def test_the_numbers_of_the_fault() -> None:
    """FAULTS 31: every count up to 256 is the number itself."""
    for n in (0, 1, 15, 16, 17, 100, EXACT):
        log = [event(HOUR // 2, i % n) for i in range(2 * n)]
        rows = to_dicts(rows_between(merge([tile(to_batch(log, GROUP.source), GROUP)], GROUP), GROUP, -1, HOUR))
        assert [[v for k, v in row.items() if "distinct" in k] for row in rows] == [[n] * 5] * (n > 0)


def test_above_it_is_hyperloglogs_estimate() -> None:
    """FAULTS 31: as it was before, to the bit."""
    n = EXACT + 1
    log = [event(HOUR // 2, i) for i in range(n)]
    [row] = to_dicts(rows_between(merge([tile(to_batch(log, GROUP.source), GROUP)], GROUP), GROUP, -1, HOUR))
    assert row["s_count_distinct_1h"] == oracle.hyperloglog([f"v{i}" for i in range(n)], 11)
    assert row["n_count_distinct_2h"] == oracle.hyperloglog(list(range(n)), 4) != n


@pytest.mark.parametrize("exact", [1, 3, 8])
@given(data=st.data())
@settings(max_examples=examples(60))
def test_however_it_is_split_it_is_the_oracles(exact: int, data: st.DataObject) -> None:
    """FAULTS 31: the border between both ways is crossed inside tiles, between tiles and between windows; keys lie beside each other."""
    log = [
        event(hour * HOUR + minute, value, origin=key)
        for hour, minute, value, key in data.draw(
            st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 12), st.sampled_from("ab")), max_size=40)
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_distinct, "EXACT", exact)
        patch.setattr(oracle, "EXACT", exact)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=4)))
        parts = [log[a:b] for a, b in zip([0, *cuts], [*cuts, len(log)], strict=True)]
        tiles = [tile(to_batch(part, GROUP.source), GROUP) for part in parts]
        data.draw(st.randoms()).shuffle(tiles)
        middle = data.draw(st.integers(0, len(tiles)))
        one = merge(tiles, GROUP)
        other = merge([merge(tiles[:middle], GROUP), merge(tiles[middle:], GROUP)], GROUP)
        assert one.equals(other)
        assert one.equals(merge([tile(to_batch(log, GROUP.source), GROUP)], GROUP))
        assert not differences(to_dicts(rows_between(one, GROUP, -1, FOREVER)), oracle_rows(log, GROUP, -1, FOREVER))


def test_long_windows_over_many_values() -> None:
    """FAULTS 31: the real border, with values that come again and leave."""
    rng = random.Random(7)
    log = [event(rng.randrange(60 * HOUR), rng.randrange(400), origin=rng.choice("ab")) for _ in range(4_000)]
    tiles = merge([tile(to_batch(log[i::3], GROUP.source), GROUP) for i in range(3)], GROUP)
    assert not differences(to_dicts(rows_between(tiles, GROUP, -1, FOREVER)), oracle_rows(log, GROUP, -1, FOREVER))


def test_a_state_keeps_hashes_or_registers_and_is_read_back_from_a_slice() -> None:
    """FAULTS 31: the canonical form, over Arrow."""
    values = pa.array([str(i) for i in range(2 * EXACT)])
    each = Distinct.add_input(Events(values, np.zeros(len(values), np.int64), values), 11)
    both = each.merge(np.array([0, 0, 5]), np.array([EXACT, EXACT + 1, 5]), ordered=False).to_arrow()
    assert both.type == Distinct.arrow_type(pa.string(), pa.string(), 11)
    assert [(len(e["hashes"]), e["registers"] != []) for e in both.to_pylist()] == [(EXACT, False), (0, True), (0, False)]
    again = Distinct.from_arrow(pa.concat_arrays([both, both]).slice(1, 4), 11)
    assert again.to_arrow().to_pylist() == [*both.to_pylist()[1:], *both.to_pylist()[:2]]
    assert make_source().field("s").dtype == "string"
