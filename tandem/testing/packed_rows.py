"""The contract of packed rows (:mod:`serving.online_store.packed`): a server never answers a copy that is older than the row's fields."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from feast import Field
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String

from serving.online_store.base import ColumnRead, Covered
from serving.online_store.store_columns import PackedColumns, StoredColumns
from tandem.testing.deletion import deletes
from tandem.testing.store_bench import US, Bench, T, at_us, batch, key, view

__all__ = ["PackedRowsContract"]

KEYS = [f"K{n}" for n in range(6)]
PLAIN_HOURS = [datetime(2024, 1, 15, 12, tzinfo=UTC), datetime(2024, 7, 15, 12, tzinfo=UTC), datetime(2029, 12, 31, 20, tzinfo=UTC)]
ODD_HOURS = [
    *PLAIN_HOURS,
    datetime(1969, 12, 31, 23, tzinfo=UTC),
    *(datetime(2024, 3, day, 2, minute, tzinfo=UTC) for day in (10, 31) for minute in (0, 30)),  # left out in New York, in Berlin
    *(datetime(2024, month, day, 2, 15, tzinfo=UTC) for month, day in ((4, 7), (10, 6), (10, 27), (11, 3))),
]


class PackedRowsContract:
    """What a store holds whatever else writes to it. A store that keeps no packed rows holds it by reading its fields."""

    def test_what_was_written_is_read_from_its_packed_rows(self, bench: Bench) -> None:
        bench.write(("K0", T, 3, 1.5), ("K1", T - US, 0, None))
        columns = _read(bench, ["K1", "none", "K0", "K1"], ("x", "tandem_revision"))
        assert isinstance(columns, PackedColumns) is bench.store.keeps_packed
        assert columns.event_us.tolist() == [at_us(T - US), 0, at_us(T), at_us(T - US)]
        _same(bench, ["K1", "none", "K0", "K1"], ("x", "tandem_revision", "tandem_fingerprint"))
        bench.write_protos(("K0", T + US, 3, 2.5))
        assert isinstance(_read(bench, ["K0"], ("x",)), PackedColumns) is bench.store.keeps_packed
        assert _xs(bench, ["K0"]) == [2.5]
        bench.config.online_store.packed = False
        assert not isinstance(_read(bench, ["K0"], ("x",)), PackedColumns)
        assert _xs(bench, ["K0", "K1"]) == [2.5, None]

    @pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_orders_are_the_same_in_every_zone_of_the_machine(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, zone: str, packed: bool
    ) -> None:
        """Hours that a summer time leaves out or has twice are times as all are; rows of stock Feast are of the time it gives them."""
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            bench.config.online_store.packed = packed
            for n, at in enumerate(ODD_HOURS):
                bench.write((f"K{n}", at, 3, 1.0))
                bench.write((f"K{n}", at - US, 9, 2.0), (f"K{n}", at, 2, 3.0))
                assert _xs(bench, [f"K{n}"]) == [1.0], at
                bench.write((f"K{n}", at, 4, 4.0))
                assert _xs(bench, [f"K{n}"]) == [4.0], at
            if bench.stock_settings is not None:
                self._beside_stock(bench)
        finally:
            monkeypatch.undo()
            time.tzset()

    @staticmethod
    def _beside_stock(bench: Bench) -> None:
        stock, config = bench.stock()
        for n, at in enumerate(PLAIN_HOURS):
            stock.online_write_batch(config, bench.table, [(key(origin=f"S{n}"), {"x": Value(double_val=7.0)}, at, None)], None)
            bench.write((f"S{n}", at - 1_000_000 * US, 9, 1.0))
            assert _xs(bench, [f"S{n}"]) == [7.0], at
            bench.write((f"S{n}", at, 0, 2.0))
            assert _xs(bench, [f"S{n}"]) == [2.0], at

    def test_a_row_that_stock_feast_wrote_over_is_read_as_stock_wrote_it(self, bench: Bench) -> None:
        if bench.stock_settings is None:
            pytest.skip("stock Feast does not write there")
        bench.write(("K0", T, 3, 1.0), ("K1", T, 3, 1.0))
        stock, config = bench.stock()
        features = {"x": Value(double_val=7.0), "tandem_revision": Value(int64_val=9), "tandem_fingerprint": Value(string_val="stock")}
        stock.online_write_batch(config, bench.table, [(key(origin="K0"), features, T + 2_000_000 * US, None)], None)
        assert _xs(bench, ["K0", "K1"]) == [7.0, 1.0]
        _same(bench, ["K0", "K1"], ("x", "tandem_revision", "tandem_fingerprint"))
        stock.online_write_batch(config, bench.table, [(key(origin="K1"), {"x": Value(double_val=8.0)}, T + 2_000_000 * US, None)], None)
        assert _xs(bench, ["K0", "K1"]) == [7.0, 8.0], "one of the features alone"
        bench.write(("K0", T + 3_000_000 * US, 1, 3.0), ("K1", T + 3_000_000 * US, 1, 4.0))
        assert _xs(bench, ["K0", "K1"]) == [3.0, 4.0]
        assert isinstance(_read(bench, ["K0", "K1"], ("x",)), PackedColumns) is bench.store.keeps_packed

    def test_stock_feast_that_drops_the_view_takes_its_packed_rows(self, bench: Bench) -> None:
        if bench.stock_settings is None:
            pytest.skip("stock Feast does not write there")
        bench.write(("K0", T, 3, 1.0))
        stock, config = bench.stock()
        stock.update(config, [bench.table], [], [], [], False)
        stock.update(config, [], [bench.table], [], [], False)
        _same(bench, ["K0"], ("x",))

    @pytest.mark.parametrize("seed", range(2))
    def test_writers_with_and_without_packed_rows_in_turn(self, bench: Bench, seed: int) -> None:
        """An older Tandem writes the same rows without packed ones, beside a newer: corrections at one time, materializations, drops, keys
        that are forgotten and come back with another value in the same order."""
        rng = random.Random(seed)
        for step in range(40):
            bench.config.online_store.packed = rng.random() < 0.5
            rows = [(k, T + rng.randrange(3) * US, rng.randrange(3), float(step)) for k in rng.sample(KEYS, 3)]
            what = rng.random()
            if what < 0.2:
                covered = Covered(step + 1, at_us(T + US))
                bench.materialize(covered, *[row for row in rows if row[1] <= T + US])
                if rng.random() < 0.5:
                    bench.drop(at_us(T), covered)
            elif what < 0.4:
                forgotten = [bench.store.entity_key(bench.config, key(origin=name)) for name in rng.sample(KEYS, 2)]
                if deletes(bench):
                    bench.store.delete_keys(bench.config, bench.table, forgotten)
            elif what < 0.5:
                bench.store.apply_fingerprint(bench.config, bench.table.name, "new")
            elif rng.random() < 0.5:
                bench.write(*rows)
            else:
                bench.write_protos(*rows)
            bench.config.online_store.packed = True
            _same(bench, KEYS, ("x", "tandem_revision", "tandem_fingerprint"))

    def test_features_that_are_added_removed_or_of_another_type(self, bench: Bench) -> None:
        bench.write(("K0", T, 3, 1.0), ("K1", T, 3, None))
        wider = bench.of(view(features=[Field(name="x", dtype=Float64), Field(name="a", dtype=String)]))
        _same(wider, ["K0", "none", "K1"], ("x", "a"))
        assert _read(wider, ["K0"], ("a",)).cells == [(None,)], "a row from before the feature existed"
        made = pa.Table.from_batches([batch(("K0", T + US, 3, 2.0))]).append_column("a", pa.array(["here"]))
        wider.store.write_rows(wider.config, wider.table, made)
        _same(wider, ["K0", "none", "K1"], ("x", "a"))
        assert [list(c) for c in _read(wider, ["K0"], ("a",)).cells] == [[Value(string_val="here").SerializeToString()]]
        _same(bench, ["K0", "K1"], ("x",))  # who knows the view of before
        other = bench.of(view(features=[Field(name="x", dtype=Int64)]))
        _same(other, ["K0", "K1"], ("x",))
        assert _xs(bench, ["K0"]) == [2.0]

    def test_a_column_of_another_type_than_the_feature(self, bench: Bench) -> None:
        whole = pa.Table.from_batches([batch(("K0", T, 3, 1.0))])
        rows = whole.set_column(whole.schema.get_field_index("x"), "x", pa.array([5], pa.int64()))
        assert bench.store.write_rows(bench.config, bench.table, rows).written == 1
        _same(bench, ["K0", "none"], ("x",))

    def test_dropped_and_forgotten_rows_have_no_packed_ones(self, bench: Bench) -> None:
        covered = Covered(10, at_us(T))
        bench.write(("K0", T, 3, 1.0), ("K1", T, 3, 1.0), ("K2", T, 3, 1.0))
        bench.materialize(covered, ("K2", T, 1, 2.0))
        assert bench.drop(at_us(T), covered) == 2
        assert _read(bench, KEYS[:3], ("x",)).found.tolist() == [False, False, True]
        bench.store.update(bench.config, [bench.table], [], [], [], False)
        assert _read(bench, KEYS[:3], ("x",)).found.tolist() == [False] * 3


def _read(bench: Bench, origins: Sequence[str], names: tuple[str, ...]) -> StoredColumns:
    keys = [bench.store.entity_key(bench.config, key(origin=o)) for o in origins]
    (columns,) = bench.store.read_columns(bench.config, [ColumnRead(bench.table, keys, names)])
    return columns


def _xs(bench: Bench, origins: Sequence[str]) -> list[float | None]:
    cells = _read(bench, origins, ("x",)).cells[0]
    return [Value.FromString(c).double_val if isinstance(c, bytes) and c else None for c in cells]


def _same(bench: Bench, origins: Sequence[str], names: tuple[str, ...]) -> None:
    """What a server reads is what the fields hold."""
    keys = [bench.store.entity_key(bench.config, key(origin=o)) for o in origins]
    columns, rows = _read(bench, origins, names), bench.store.read_stored(bench.config, bench.table, keys, names)
    assert columns.found.tolist() == [row is not None for row in rows]
    assert columns.event_us.tolist() == [0 if row is None else row[0] for row in rows]
    assert [list(c) for c in columns.cells] == [[None if row is None else row[1][i] for row in rows] for i in range(len(names))]
