"""The contract of an online store (:mod:`serving.online_store.base`): ordered, correctable, atomic writes; statuses; ages; races.

A store of another package is tested by a class of four lines::

    class TestMyStore(OnlineStoreContract):
        @pytest.fixture
        def store_settings(self, tmp_path):
            return {"type": "my_package.store.MyOnlineStore", "path": str(tmp_path / "online")}

:class:`Bench` is a store with its configuration, a view and a clock that stands at :data:`NOW`, for tests of one's own.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from feast import Field
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64

from serving.online_store.base import ColumnRead, Covered
from tandem.testing.deletion import DeletionContract
from tandem.testing.materialization import MaterializationContract
from tandem.testing.packed_rows import PackedRowsContract
from tandem.testing.store_bench import (
    DAY,
    EVERY,
    MINUTE,
    NOW,
    ORDERS,
    RACERS,
    ROUNDS,
    STEPS,
    US,
    Bench,
    T,
    at_us,
    batch,
    configuration,
    every_type,
    key,
    race_in_threads,
    race_rounds,
    random_history,
    view,
)
from transforms.errors import DataError, FingerprintError, OwnerError, StoreError

__all__ = ["DAY", "NOW", "US", "Bench", "OnlineStoreContract", "at_us", "batch", "key", "random_history", "view"]


def claimed(bench: Bench, owner: str) -> None:
    """Claim the rows, which nobody has."""
    found = bench.store.claim(bench.config, owner)
    skip_without_mark(bench)
    assert found == owner


def skip_without_mark(bench: Bench) -> None:
    """Skips the test where there is none after a claim: a store need not keep it."""
    if bench.store.owner(bench.config) is None:
        pytest.skip("the store keeps no mark of whose rows these are")


class OnlineStoreContract(PackedRowsContract, DeletionContract, MaterializationContract):
    """What every online store holds. Subclass it as ``class TestX``; override :meth:`store_settings`, the other two if they apply."""

    @pytest.fixture
    def store_settings(self) -> Mapping[str, Any]:
        """What stands below ``online_store`` in feature_store.yaml, of a store that can be written."""
        raise NotImplementedError("override the fixture store_settings")

    @pytest.fixture
    def stock_settings(self) -> Mapping[str, Any] | None:
        """The same for Feast's own store over the same data; None where Feast has none that reads it."""
        return None

    @pytest.fixture
    def unusable_settings(self) -> Mapping[str, Any] | None:
        """The same of a store that cannot be reached or written; None where there is no such thing."""
        return None

    @pytest.fixture
    def bench(self, store_settings: Mapping[str, Any], stock_settings: Mapping[str, Any] | None) -> Bench:
        """An empty store, the clock at 2030."""
        return Bench.open(store_settings, view(), stock_settings)

    @pytest.mark.parametrize("step", [US, timedelta(milliseconds=1), timedelta(hours=1)])
    @pytest.mark.parametrize("entry", ["write", "write_protos"])
    def test_a_newer_row_wins_also_within_one_second(self, bench: Bench, step: timedelta, entry: str) -> None:
        write = getattr(bench, entry)
        write(("EWR", T, 1, 1.0))
        write(("EWR", T + step, 1, 2.0))
        assert bench.x() == 2.0
        write(("EWR", T, 9, 3.0))
        assert bench.x() == 2.0

    @pytest.mark.parametrize("order", ORDERS)
    def test_order_of_batches_does_not_matter(self, bench: Bench, order: tuple[int, ...]) -> None:
        for i in order:
            bench.write(("EWR", T + i * US, 1, float(i)))
        assert bench.x() == 2.0

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("entry", ["write", "write_protos"])
    def test_order_within_a_batch_does_not_matter(self, bench: Bench, order: tuple[int, ...], entry: str) -> None:
        getattr(bench, entry)(*(("EWR", T + i * US, 1, float(i)) for i in order))
        assert bench.x() == 2.0

    def test_a_correction_wins_and_a_replay_cannot_undo_it(self, bench: Bench) -> None:
        assert bench.write(("EWR", T, 3, 1.0)).written == 1
        assert bench.write(("EWR", T, 4, 2.0)).written == 1
        result = bench.write(("EWR", T, 3, 1.0), ("EWR", T, 4, 7.0))
        assert (result.written, result.stale, result.refused) == (0, 2, 0)
        assert bench.x() == 2.0

    def test_a_row_whose_windows_are_empty_does_not_expire(self, bench: Bench) -> None:
        ttl = bench.table.ttl
        assert ttl is not None
        bench.write(("EWR", NOW - 9 * ttl, 0, 0.0), ("JFK", NOW - 9 * ttl, 1, 1.0))
        keys = [key(origin=o) for o in ("EWR", "JFK")]
        for names in (["x"], ["tandem_revision", "x"]):
            rows = bench.store.read_rows(bench.config, bench.table, keys, names, now=NOW)
            assert rows.statuses["x"] == ["PRESENT", "OUTSIDE_MAX_AGE"]
        assert [values for _, values in bench.store.online_read(bench.config, bench.table, keys, ["x"])] == [
            {"x": Value(double_val=0.0)},
            None,
        ]

    @pytest.mark.parametrize("seed", range(3))
    def test_any_history_of_writes_ends_as_the_rule_says(self, bench: Bench, seed: int) -> None:
        """Random streams, materializations, drops and applied graphs: after each step every key holds what :func:`row_wins` kept."""
        random_history(bench, random.Random(seed))

    def test_rows_of_the_applied_graph_replace_equal_ones_of_another(self, bench: Bench) -> None:
        bench.write(("EWR", T, 3, 1.0), fingerprint="old")
        bench.write(("EWR", T, 3, 2.0), fingerprint="new")
        assert bench.x() == 1.0, "nothing is applied yet: the first one stays"
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        assert bench.store.applied_fingerprint(bench.config, "traffic") == "new"
        bench.write(("EWR", T, 3, 2.0), fingerprint="new")
        assert bench.x() == 2.0
        bench.write(("EWR", T, 3, 5.0), fingerprint="new")
        assert bench.x() == 2.0
        bench.write(("EWR", T - US, 3, 5.0), ("EWR", T, 2, 6.0), fingerprint="new")
        assert bench.x() == 2.0

    @pytest.mark.parametrize("entry", ["write", "write_protos"])
    def test_a_writer_of_the_old_graph_is_refused_whole(self, bench: Bench, entry: str) -> None:
        bench.write(("EWR", T, 3, 1.0), fingerprint="old")
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        with pytest.raises(FingerprintError, match=r"'old'.*'new' is applied"):
            getattr(bench, entry)(("EWR", T + DAY / 48, 3, 2.0), ("JFK", T, 1, 2.0), fingerprint="old")
        many = pa.Table.from_batches(
            [
                batch(*((f"A{i}", T, 1, 1.0) for i in range(1200)), fingerprint="new"),
                batch(("Z", T, 1, 1.0), fingerprint="old"),
            ]
        )
        with pytest.raises(FingerprintError, match="'old'"):
            bench.store.write_rows(bench.config, bench.table, many)
        assert [bench.x(k) for k in ("EWR", "JFK", "A0", "Z")] == [1.0, None, None, None]
        bench.store.apply_fingerprint(bench.config, "another_view", "other")
        assert bench.write(("JFK", T, 1, 2.0), fingerprint="new").written == 1

    def test_the_far_future_is_refused_and_the_rest_written(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            result = bench.write(
                ("EWR", NOW + MINUTE, 1, 1.0), ("JFK", NOW + MINUTE + US, 1, 2.0), ("JFK", NOW, 1, 3.0), ("LGA", NOW + 9000 * DAY, 1, 4.0)
            )
        assert (result.written, result.stale, result.refused) == (2, 0, 2)
        assert len(caplog.messages) == 1
        assert "refused 2 of 4 rows" in caplog.text
        assert "JFK" in caplog.text
        assert "2030-01-01T00:01:00.000001" in caplog.text
        assert (bench.x("EWR"), bench.x("JFK"), bench.x("LGA")) == (1.0, 3.0, None)

    def test_ttl_on_read_to_the_microsecond(self, bench: Bench) -> None:
        ttl = bench.table.ttl
        assert ttl is not None
        bench.write(("EWR", NOW - ttl, 1, 1.0), ("JFK", NOW - ttl - US, 1, 2.0), ("LGA", T, 1, None))
        keys = [key(origin=o) for o in ("EWR", "JFK", "LGA", "XXX", "EWR")]
        rows = bench.store.read_rows(bench.config, bench.table, keys, ["x", "unheard_of"], now=NOW)
        assert rows.statuses["x"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NULL", "NOT_FOUND", "PRESENT"]
        assert rows.statuses["unheard_of"] == ["NOT_FOUND", "OUTSIDE_MAX_AGE", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"]
        assert rows.ages == [129600.0, 129600.000001, 3600.0, None, 129600.0]
        assert rows.values["x"][1] == Value()
        read = bench.store.online_read(bench.config, bench.table, keys, ["x"])
        assert read[0] == (NOW - ttl, {"x": Value(double_val=1.0)})
        assert read[1] == (NOW - ttl - US, None)
        assert read[3] == (None, None)
        assert bench.store.online_read_stored(bench.config, bench.table, keys[1:2], ["x"]) == [
            (NOW - ttl - US, {"x": Value(double_val=2.0)})
        ]
        later = bench.store.read_rows(bench.config, bench.table, keys, ["x"], now=NOW + US)
        assert later.statuses["x"][0] == "OUTSIDE_MAX_AGE"

    def test_a_view_without_ttl_never_expires(self, bench: Bench) -> None:
        eternal = bench.of(view(ttl=timedelta(0), name="eternal"))
        eternal.write(("EWR", NOW - 40_000 * DAY, 1, 1.0))
        assert eternal.x() == 1.0
        assert eternal.store.online_read(eternal.config, eternal.table, [key(origin="EWR")], ["x"])[0][1] == {"x": Value(double_val=1.0)}

    def test_every_type_composite_and_integer_keys_and_nulls(self, bench: Bench) -> None:
        every, keys = every_type(bench)
        table = every.table
        rows = every.store.read_rows(every.config, table, keys, now=NOW)
        for name, (_, _, value, proto) in EVERY.items():
            got = rows.values[name]
            assert rows.statuses[name] == ["PRESENT", "NULL", "PRESENT", "NOT_FOUND"], name
            assert got[0] == got[2]
            if proto is not None:
                assert got[0] == proto
            else:
                assert list(getattr(got[0], str(got[0].WhichOneof("val"))).val) == (value if name != "lt" else [1893456000])
        assert [v.int64_val for v in rows.values["tandem_revision"][:2]] == [1, 1]

    def test_columns_of_several_views_are_their_rows(self, bench: Bench) -> None:
        """What a server reads at once is what :meth:`read_stored` gives: repeated and missing keys, unknown features, no rows."""
        every, keys = every_type(bench)
        empty = bench.of(view(name="empty"))
        bench.write(("EWR", T, 3, 1.5), ("JFK", T - DAY, 1, None))
        store, config = bench.store, bench.config
        own = [store.entity_key(config, key(origin=o)) for o in ("EWR", "XXX", "JFK", "EWR")]
        others = [store.entity_key(config, k) for k in keys]
        reads = [
            ColumnRead(bench.table, own, ("x", "unheard_of", "tandem_revision")),
            ColumnRead(every.table, others, tuple(EVERY)),
            ColumnRead(empty.table, own, ("x",)),
            ColumnRead(bench.table, own, ()),
            ColumnRead(every.table, others[:1], ("s",)),
            ColumnRead(bench.table, [], ("x",)),
        ]
        for read, columns in zip(reads, store.read_columns(config, reads), strict=True):
            rows = store.read_stored(config, read.table, read.keys, read.names)
            assert columns.found.tolist() == [row is not None for row in rows]
            assert columns.event_us.tolist() == [0 if row is None else row[0] for row in rows]
            assert [list(c) for c in columns.cells] == [
                [None if row is None else row[1][i] for row in rows] for i in range(len(read.names))
            ]
        assert store.read_columns(config, []) == []

    def test_columns_of_more_keys_than_a_statement_takes(self, bench: Bench) -> None:
        n = 1300
        bench.write(*((f"K{i}", T, 1, float(i)) for i in range(n)))
        keys = [bench.store.entity_key(bench.config, key(origin=f"K{i}")) for i in range(n + 5)]
        (columns,) = bench.store.read_columns(bench.config, [ColumnRead(bench.table, keys, ("x",))])
        values = [None if c is None else Value.FromString(c).double_val for c in columns.cells[0]]
        assert values == [*map(float, range(n)), *[None] * 5]

    def test_stock_feast_reads_every_type(self, bench: Bench) -> None:
        if bench.stock_settings is None:
            pytest.skip("the store has a layout of its own, which stock Feast does not read")
        every, keys = every_type(bench)
        table = every.table
        stock, config = every.stock()
        theirs, ours_ = (
            stock.online_read(config, table, keys[:2], list(EVERY)),
            every.store.online_read(every.config, table, keys[:2], list(EVERY)),
        )
        for (at, values), (_, ours) in zip(theirs, ours_):
            assert at.replace(tzinfo=None) == T.replace(tzinfo=None)
            assert {n: values[n] for n in EVERY} == ours

    def test_rows_of_stock_feast_stay_where_others_of_their_view_are_written(self, bench: Bench) -> None:
        """A store that changes to the ordered class, and is written in part: its other rows were read as none, without a word."""
        if bench.stock_settings is None:
            pytest.skip("the store has a layout of its own, which stock Feast does not write")
        stock, config = bench.stock()
        cells = [{"x": Value(double_val=x)} for x in (1.0, 2.0)]
        rows = [(key(origin=o), each, T + timedelta(microseconds=7), None) for o, each in zip(("EWR", "JFK"), cells)]
        stock.online_write_batch(config, bench.table, rows, None)
        bench.write(("EWR", T + timedelta(seconds=1), 1, 3.0))
        assert (bench.x("EWR"), bench.x("JFK"), bench.x("LGA")) == (3.0, 2.0, None)
        bench.write(("JFK", T + timedelta(seconds=1), 0, 5.0))
        assert bench.x("JFK") == 5.0

    def test_of_a_row_of_stock_feast_and_ours_the_later_one_stays(self, bench: Bench) -> None:
        """Whichever came first, and whatever order ours had there before; below all of ours of its time, and of no graph."""
        if bench.stock_settings is None:
            pytest.skip("the store has a layout of its own, which stock Feast does not write")
        stock, config = bench.stock()

        def written_by_stock(name: str, at: datetime, x: float) -> None:
            stock.online_write_batch(config, bench.table, [(key(origin=name), {"x": Value(double_val=x)}, at, None)], None)

        second = timedelta(seconds=1)
        bench.write(("LGA", T, 1, 0.0))
        for name, at in (("EWR", T), ("LGA", T + 5 * second), ("OLD", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC))):
            written_by_stock(name, at, 7.0)
        bench.write(("EWR", T - second, 5, 1.0), ("LGA", T + 4 * second, 5, 2.0))
        assert [bench.x(k) for k in ("EWR", "LGA")] == [7.0, 7.0]
        bench.write(("EWR", T, 0, 1.0), ("LGA", T + 6 * second, 1, 2.0), ("OLD", T, 1, 4.0))
        assert [bench.x(k) for k in ("EWR", "LGA", "OLD")] == [1.0, 2.0, 4.0]
        written_by_stock("EWR", T + 9 * second, 8.0)
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.write(("EWR", T, 1, 5.0), fingerprint="new")
        assert bench.x("EWR") == 5.0, "rows of the applied graph replace those of none"

    def test_features_that_a_row_lacks_become_null_not_the_old_value(self, bench: Bench) -> None:
        table = view(features=[Field(name="x", dtype=Float64), Field(name="y", dtype=Float64)], name="two")
        two = bench.of(table)
        two.store.write_rows(
            two.config,
            table,
            batch(("EWR", T, 1, 1.0)).from_pydict(
                {"origin": ["EWR"], "event_timestamp": [T], "x": [1.0], "y": [1.0], "tandem_revision": [1], "tandem_fingerprint": ["n"]}
            ),
        )
        two.write_protos(("EWR", T + US, 1, 2.0))
        rows = two.store.read_rows(two.config, table, [key(origin="EWR")], ["x", "y"], now=NOW)
        assert rows.statuses == {"x": ["PRESENT"], "y": ["NULL"]}

    def test_rows_without_key_or_time_are_one_error(self, bench: Bench) -> None:
        good = batch(("EWR", T, 1, 1.0))
        with pytest.raises(DataError, match="no column 'origin'"):
            bench.store.write_rows(bench.config, bench.table, pa.Table.from_batches([good]).drop(["origin"]))
        bad = pa.table({"origin": ["EWR", None], "event_timestamp": pa.array([T, T], pa.timestamp("us", tz="UTC")), "x": [1.0, 2.0]})
        with pytest.raises(DataError, match="column 'origin' has 1 nulls"):
            bench.store.write_rows(bench.config, bench.table, bad)

    def test_nothing_written_yet_and_no_keys(self, bench: Bench) -> None:
        assert bench.x() is None
        assert bench.store.online_read(bench.config, bench.table, [], ["x"]) == []
        assert bench.store.write_rows(bench.config, bench.table, batch(("EWR", T, 1, 1.0)).slice(0, 0)).written == 0

    def test_a_view_that_is_dropped_is_gone_and_may_come_back(self, bench: Bench) -> None:
        other = bench.of(view(name="other"))
        bench.write(("EWR", T, 5, 1.0))
        other.write(("EWR", T, 5, 9.0))
        bench.store.apply_fingerprint(bench.config, "traffic", "gone")
        bench.store.update(bench.config, [bench.table], [other.table], [], [], False)
        assert (bench.x(), other.x()) == (None, 9.0)
        bench.store.update(bench.config, [], [bench.table, other.table], [], [], False)
        bench.write(("EWR", T - US, 1, 3.0))
        assert bench.x() == 3.0

    def test_generation_markers_tell_a_store_that_forgot(self, bench: Bench) -> None:
        mark = bench.store.mark_generation
        assert not mark(bench.config, "main/0", 5, at_least=1), "nothing is there"
        assert mark(bench.config, "main/0", 5)
        assert mark(bench.config, "main/0", 7, at_least=5)
        assert mark(bench.config, "main/0", 1_800_000_000_000_000, at_least=6)
        assert not mark(bench.config, "main/0", 9, at_least=1_800_000_000_000_001)
        assert not mark(bench.config, "main/1", 9, at_least=1)
        bench.write(("EWR", T, 1, 1.0))
        bench.store.sync(bench.config)
        assert bench.x() == 1.0

    def test_the_first_who_claims_a_project_has_it_until_another_takes_it(self, bench: Bench, store_settings: Mapping[str, Any]) -> None:
        claim = bench.store.claim
        assert bench.store.owner(bench.config) is None
        claimed(bench, "one")
        assert claim(bench.config, "two") == "one"
        again: Any = get_online_store_from_config(bench.config.online_store)
        assert again.owner(bench.config) == again.claim(bench.config, "two") == "one", "another process sees the same"
        other = Bench.open(store_settings, view())
        assert other.store.claim(other.config, "two") == "two", "each project has its own"
        assert claim(bench.config, "two", take=True) == claim(bench.config, "one") == bench.store.owner(bench.config) == "two"

    def test_whoever_had_the_rows_before_writes_none_of_them(self, bench: Bench) -> None:
        """The mark is compared in the step that writes: a writer of before may not know of it for seconds. First words are compared, as
        what follows is the folder's place, and folders are moved."""
        store, config, table = bench.store, bench.config, bench.table
        store.writer = "one /moved"
        claimed(bench, "one /there")
        many = [(f"K{i:03d}", T, 1, 1.0) for i in range(200)]
        assert bench.write(*many).written == 200, "some stores write so many in another way"
        assert bench.write(("K000", T + US, 1, 2.0)).written == 1
        store.cover(config, table.name, Covered(5, at_us(T)))

        other: Any = get_online_store_from_config(config.online_store)
        assert other.claim(config, "two /here", take=True) == "two /here"
        later = [(name, T + MINUTE, 1, 3.0) for name, *_ in many]
        dropped = Covered(9, at_us(T + DAY))
        for refused in (
            lambda: bench.write(*later),
            lambda: bench.write(later[0]),
            lambda: store.cover(config, table.name, dropped),
            lambda: store.drop_superseded(config, table, 0, dropped),
        ):
            with pytest.raises(OwnerError, match=r"from another data folder now \(/here\)"):
                refused()
        assert store.covered(config, table.name) == Covered(5, at_us(T))
        store.writer = "two /here"
        assert bench.x("K000") == 2.0 and bench.x("K199") == 1.0
        assert bench.write(*later).written == 200
        store.writer = None
        assert bench.write(("K000", T + 2 * MINUTE, 1, 4.0)).written == 1, "as Feast's own materialize"

    def test_no_row_of_before_comes_after_a_take_over(self, bench: Bench) -> None:
        store, config = bench.store, bench.config
        store.writer = "one"
        claimed(bench, "one")
        begun, taken = threading.Event(), threading.Event()

        def write() -> None:
            for n in itertools.count():
                last = taken.is_set()
                bench.write(*((f"K{i:03d}", T + n * US, 1, float(n)) for i in range(100)))
                begun.set()
                if last:
                    return

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            try:
                assert begun.wait(60)
                other: Any = get_online_store_from_config(config.online_store)
                other.clock = store.clock
                other.claim(config, "two", take=True)
                taker = replace(bench, store=other)
                then = [taker.x(f"K{i:03d}") for i in range(100)]
            finally:
                taken.set()
            with pytest.raises(OwnerError):
                writing.result(60)
            assert [taker.x(f"K{i:03d}") for i in range(100)] == then

    def test_a_mark_is_taken_away_by_whom_it_names_alone(self, bench: Bench) -> None:
        store, config = bench.store, bench.config
        store.disclaim(config, "one")
        claimed(bench, "one")
        store.disclaim(config, "two")
        assert store.owner(config) == "one"
        store.disclaim(config, "one")
        assert store.owner(config) is None
        store.writer = "three"
        assert bench.write(("EWR", T, 1, 1.0)).written == 1, "nobody has them"
        assert store.claim(config, "two") == "two"

    def test_of_many_who_claim_at_once_one_has_it(self, bench: Bench) -> None:
        names = [f"folder {n}" for n in range(8)]
        with ThreadPoolExecutor(len(names)) as pool:
            found = set(pool.map(lambda name: bench.store.claim(bench.config, name), names))
        skip_without_mark(bench)
        assert len(found) == 1
        assert found <= set(names)

    def test_projects_do_not_see_each_other(self, bench: Bench, store_settings: Mapping[str, Any]) -> None:
        other = Bench.open(store_settings, view())
        bench.write(("EWR", T, 1, 1.0))
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        bench.store.mark_generation(bench.config, "main/0", 5)
        assert other.x() is None
        assert other.store.applied_fingerprint(other.config, "traffic") is None
        assert not other.store.mark_generation(other.config, "main/0", 5, at_least=5)

    def test_a_store_that_is_opened_again_has_what_was_written(self, bench: Bench, store_settings: Mapping[str, Any]) -> None:
        bench.write(("EWR", T, 1, 1.0))
        bench.store.apply_fingerprint(bench.config, "traffic", "new")
        config = configuration(bench.config.project, store_settings)
        again: Any = get_online_store_from_config(config.online_store)
        assert again.online_read_stored(config, bench.table, [key(origin="EWR")], ["x"]) == [(T, {"x": Value(double_val=1.0)})]
        assert again.applied_fingerprint(config, "traffic") == "new"

    def test_the_configuration_may_set_the_clock_and_bound_the_future(self, store_settings: Mapping[str, Any]) -> None:
        then = Bench.open({**store_settings, "as_of": T.isoformat(), "max_future_seconds": 60}, view())
        then.store.clock = None
        assert then.write(("EWR", T + timedelta(seconds=60), 1, 1.0), ("JFK", T + timedelta(seconds=61), 1, 1.0)).refused == 1
        assert then.store.read_rows(then.config, then.table, [key(origin="EWR")], ["x"]).ages == [-60.0]
        then.config.online_store.limit_waits(2.5)
        assert then.x() == 1.0

    def test_racing_writers_never_let_an_older_value_win(self, bench: Bench) -> None:
        if not bench.store.shared_between_processes:
            pytest.skip("the store is one process' own")
        processes = multiprocessing.get_context("fork")
        barrier = processes.Barrier(RACERS)
        races = [processes.Process(target=race_rounds, args=(bench, seed, barrier)) for seed in range(RACERS)]
        for p in races:
            p.start()
        for p in races:
            p.join(120)
        assert [p.exitcode for p in races] == [0] * RACERS
        assert {bench.x(f"K{number}") for number in range(ROUNDS)} == {STEPS - 1.0}

    def test_racing_threads_never_let_an_older_value_win(self, bench: Bench) -> None:
        assert race_in_threads(bench) == []
        assert {bench.x(f"K{number}") for number in range(ROUNDS)} == {STEPS - 1.0}

    def test_two_views_are_two_whatever_their_names(self, store_settings: Mapping[str, Any]) -> None:
        """``shop_eu`` has a view ``orders``, ``shop`` one called ``eu_orders``: whoever comes second is refused, or has its own rows."""
        opened = Bench.open(store_settings, view(name="orders"))
        one, other = (
            replace(opened, config=configuration(project, store_settings)).of(view(name=name))
            for project, name in ((f"{opened.config.project}_eu", "orders"), (opened.config.project, "eu_orders"))
        )
        one.store.apply_fingerprint(one.config, "orders", "new")
        one.write(("EWR", T, 1, 1.0))
        refused = ""
        try:
            other.store.apply_fingerprint(other.config, "eu_orders", "another")
        except StoreError as error:
            refused = str(error)
        if refused:
            assert "\n" not in refused and "'eu_orders'" in refused
        else:
            other.write(("EWR", T, 2, 2.0), fingerprint="another")
            other.store.drop_superseded(other.config, other.table, 0, Covered(1, 2))
            assert other.x() == 2.0
        assert one.x() == 1.0
        other.store.update(other.config, [other.table], [], [], [], False)
        assert one.x() == 1.0

    def test_a_store_that_cannot_be_used_is_one_line(self, unusable_settings: Mapping[str, Any] | None) -> None:
        if unusable_settings is None:
            pytest.skip("there is no such thing")
        with pytest.raises(StoreError) as e:
            Bench.open(unusable_settings, view()).write(("EWR", T, 1, 1.0))
        assert "\n" not in str(e.value)
