"""The contract of deletion: rows are found by part of their key and deleted for good, and no others."""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from feast.value_type import ValueType

from serving.online_store.base import OrderedOnlineStore
from serving.online_store.keys import key_part
from tandem.testing.store_bench import Bench, T, batch, key, view

__all__ = ["DeletionContract", "deletes"]

MANY = 2_300


def deletes(bench: Bench) -> bool:
    """Whether the store can delete rows by their keys: one of another package need not."""
    kind = type(bench.store)
    return OrderedOnlineStore.delete_keys is not kind.delete_keys and OrderedOnlineStore.stored_keys is not kind.stored_keys


class DeletionContract:
    """What a store holds with ``stored_keys`` and ``delete_keys``, which ``tandem erase`` needs."""

    @pytest.fixture
    def pairs(self, bench: Bench) -> Bench:
        """A view of two keys, the text a pattern in some places, with rows of (origin, number) and their x."""
        if not deletes(bench):
            pytest.skip("the store cannot delete rows by their keys")
        pairs = bench.of(view({"origin": ValueType.STRING, "number": ValueType.INT64}, name="pairs"))
        put(pairs, [("EWR", 7), ("E*R", 7), ("EWR", 8), ("E", 7), ("JFK", 2**40), ("", -1), ("EW\\R", 7), ("[EWR]", 7)])
        return pairs

    @pytest.mark.parametrize("origin", ["EWR", "E*R", "E", "", "EW\\R", "[EWR]", "nobody"])
    def test_keys_are_found_by_a_part(self, pairs: Bench, origin: str) -> None:
        """A store may give more keys than those that hold the part, never fewer."""
        wanted = {own(pairs, o, n) for o, n in rows_of(pairs) if o == origin}
        found = set(pairs.store.stored_keys(pairs.config, pairs.table, key_part(origin, ValueType.STRING)))
        assert wanted <= found <= {own(pairs, o, n) for o, n in rows_of(pairs)}

    @pytest.mark.parametrize("number", [7, 8, -1, 2**40, 99])
    def test_keys_are_found_by_a_number(self, pairs: Bench, number: int) -> None:
        wanted = {own(pairs, o, n) for o, n in rows_of(pairs) if n == number}
        assert wanted <= set(pairs.store.stored_keys(pairs.config, pairs.table, key_part(number, ValueType.INT64)))

    def test_all_keys_of_many_are_found(self, pairs: Bench) -> None:
        names = [(f"K{n}", n) for n in range(MANY)]
        put(pairs, names)
        assert {own(pairs, o, n) for o, n in names} <= set(pairs.store.stored_keys(pairs.config, pairs.table))

    def test_what_is_deleted_is_gone_and_all_else_stays(self, pairs: Bench, bench: Bench) -> None:
        """Another view of the same entities keeps its rows; so do other entities."""
        other = bench.of(view({"origin": ValueType.STRING, "number": ValueType.INT64}, name="other"))
        put(other, [("EWR", 7)])
        bench.write(("EWR", T, 1, 1.0))
        gone = [own(pairs, "EWR", 7), own(pairs, "EWR", 8), own(pairs, "never", 0)]
        pairs.store.delete_keys(pairs.config, pairs.table, gone)
        pairs.store.compact(pairs.config, [pairs.table])
        assert rows_of(pairs) == [("E*R", 7), ("E", 7), ("JFK", 2**40), ("", -1), ("EW\\R", 7), ("[EWR]", 7)]
        assert rows_of(other) == [("EWR", 7)] and bench.x() == 1.0
        pairs.store.delete_keys(pairs.config, pairs.table, gone)
        pairs.store.delete_keys(pairs.config, pairs.table, [])
        put(pairs, [("EWR", 7)], T - timedelta(hours=9))
        assert ("EWR", 7) in rows_of(pairs), "an older row than the deleted one is written: nothing of that is left"

    def test_a_view_without_rows_has_no_keys_to_delete(self, pairs: Bench) -> None:
        never = Bench(pairs.store, pairs.config, view({"origin": ValueType.STRING, "number": ValueType.INT64}, name="never"))
        assert rows_of(never) == []
        never.store.delete_keys(never.config, never.table, [own(pairs, "EWR", 7)])
        never.store.compact(never.config, [never.table])
        assert len(rows_of(pairs)) == 8


_ALL = [("EWR", 7), ("EWR", 8), ("E*R", 7), ("E", 7), ("JFK", 2**40), ("", -1), ("EW\\R", 7), ("[EWR]", 7)]


def own(pairs: Bench, origin: str, number: int) -> bytes:
    """The key of a row in the store."""
    return pairs.store.entity_key(pairs.config, key(origin=origin, number=number))


def rows_of(pairs: Bench) -> list[tuple[str, int]]:
    """Which of the first rows are there."""
    found = pairs.store.read_stored(pairs.config, pairs.table, [own(pairs, *each) for each in _ALL], [])
    return [each for each, row in zip(_ALL, found) if row is not None]


def put(pairs: Bench, rows: list[tuple[str, int]], at: datetime = T) -> None:
    """Write rows of these keys."""
    made = pa.Table.from_batches([batch(*((origin, at, 1, 1.0) for origin, _ in rows))])
    written = pairs.store.write_rows(pairs.config, pairs.table, made.append_column("number", pa.array([n for _, n in rows], pa.int64())))
    assert written.written == len(rows)
