"""The contract of materializations: what a batch run's rows replace in a store, what of its own it drops, and what a stream's rows keep."""

from __future__ import annotations

from dataclasses import replace

from serving.online_store.base import Covered
from tandem.testing.store_bench import DAY, US, Bench, T, at_us

__all__ = ["MaterializationContract"]


class MaterializationContract:
    """What a store holds of batch runs beside streams; a part of :class:`tandem.testing.online_store.OnlineStoreContract`."""

    def test_a_materialization_replaces_what_it_covers_and_a_stream_cannot_take_that_back(self, bench: Bench) -> None:
        bench.write(("EWR", T, 3, 1.0), ("JFK", T + 9 * US, 3, 2.0))
        assert bench.covered() is None
        bench.materialize(Covered(10, at_us(T + 5 * US)), ("EWR", T - US, 1, 5.0), ("JFK", T, 1, 6.0), ("LGA", T, 1, 7.0))
        assert bench.covered() == Covered(10, at_us(T + 5 * US))
        assert [bench.x(k) for k in ("EWR", "JFK", "LGA")] == [5.0, 2.0, 7.0], "a row beyond what is covered stays"
        late = bench.write(("EWR", T, 9, 8.0), ("LGA", T + 5 * US, 9, 8.0), ("BOS", T, 9, 8.0))
        assert (late.written, late.stale) == (0, 3)
        assert [bench.x(k) for k in ("EWR", "LGA", "BOS")] == [5.0, 7.0, None]
        assert bench.write(("EWR", T + 6 * US, 1, 9.0)).written == 1
        bench.materialize(Covered(11, at_us(T + 5 * US)), ("EWR", T - 2 * US, 1, 1.0), ("LGA", T, 1, 3.0))
        assert [bench.x(k) for k in ("EWR", "LGA")] == [9.0, 3.0], "an equal order with other values is a correction, too"

    def test_what_a_materialization_has_no_row_of_is_dropped(self, bench: Bench) -> None:
        bench.write(("EWR", T, 3, 1.0), ("JFK", T + 9 * US, 3, 2.0), ("OLD", T - DAY, 3, 3.0))
        covered = Covered(10, at_us(T + 5 * US))
        bench.materialize(covered, ("LGA", T, 1, 7.0))
        start = at_us(T - US)
        assert bench.drop(start, covered, count_only=True) == 1
        assert bench.x("EWR") == 1.0
        assert bench.drop(start, covered) == 1
        assert bench.drop(start, covered) == 0
        assert [bench.x(k) for k in ("EWR", "JFK", "OLD", "LGA")] == [None, 2.0, 3.0, 7.0]
        assert bench.write(("EWR", T + 6 * US, 1, 4.0)).written == 1
        assert bench.x("EWR") == 4.0

    def test_what_was_materialized_ahead_can_be_dropped_without_what_streams_wrote(self, bench: Bench) -> None:
        """Where a clock was set back: ``since`` leaves streams' rows, and those of other graphs, as they are."""
        bench.store.apply_fingerprint(bench.config, "traffic", "old")
        bench.materialize(Covered(9, at_us(T)), ("OLD", T - US, 3, 8.0), fingerprint="old")
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.materialize(Covered(10, at_us(T + 5 * US)), ("EWR", T + 2 * US, 3, 1.0), ("JFK", T - US, 3, 2.0))
        bench.write(("LGA", T + 9 * US, 1, 3.0))
        early = Covered(11, 2**53 - 1, since=1)
        assert bench.drop(at_us(T), early, count_only=True) == 1
        assert bench.drop(at_us(T), early) == 1
        assert [bench.x(k) for k in ("EWR", "JFK", "LGA", "OLD")] == [None, 2.0, 3.0, 8.0]
        assert bench.drop(at_us(T), replace(early, stamp=10)) == 0, "stamps of before alone"

    def test_rows_of_other_graphs_are_dropped_and_nothing_of_another_graph_is_covered(self, bench: Bench) -> None:
        bench.store.apply_fingerprint(bench.config, "traffic", "old")
        bench.materialize(Covered(10, at_us(T)), ("EWR", T, 3, 1.0), ("JFK", T + DAY / 48, 3, 1.0), fingerprint="old")
        bench.store.apply_fingerprint(bench.config, "traffic", "old")
        assert bench.covered() == Covered(10, at_us(T)), "it was applied already"
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        assert bench.covered() is None
        assert bench.write(("EWR", T - DAY, 1, 2.0), fingerprint="new").written == 1
        assert bench.x("EWR") == 2.0
        assert bench.drop(at_us(T), Covered(11, at_us(T))) == 1
        assert [bench.x(k) for k in ("EWR", "JFK")] == [2.0, None]
