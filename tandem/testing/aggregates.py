"""The contract of an aggregate (:class:`transforms.functions.Aggregate`): a monoid on the bits, whose windows a plain function confirms.

An aggregate of another package is tested by a class of a few lines::

    class TestSpread(AggregateContract):
        @classmethod
        def aggregates(cls):
            return [Spread("x", over=[hours(1), hours(3)]), Spread("n", over=hours(2), where=Field("b").eq(True))]

        def reference(self, aggregate, events, boundary):
            values = [e.value for e in events]
            return float(max(values)) - float(min(values)) if values else None

Fields are those of :data:`SOURCE`, which has one of each dtype. Needs pytest and hypothesis.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.testing.event_logs import FLOATS, FOREVER, HOUR, INTS, SOURCE, TEXTS, Event, batch_of, bits, over_ipc, plain, values
from transforms.aggregates import merge, rows_between, tile, tile_schema
from transforms.definitions import Aggregate, Entity, FeatureGroup, Field, Predicate, duration_name, hours
from transforms.errors import DefinitionError
from transforms.functions import aggregate

__all__ = ["SOURCE", "AggregateContract", "Input", "fingerprint", "values"]


class Input(NamedTuple):
    """An event as a reference function sees it: the field's value (-0.0 is 0.0; None for an aggregate without a field), the event time in
    microseconds, and the tie-breaker."""

    value: Any
    time: int
    tie: int


def fingerprint(aggregate: Aggregate) -> str:
    """SHA-256 (hex) of what an aggregate adds to the fingerprint of its group."""
    return hashlib.sha256(json.dumps(aggregate.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _zero(value: Any) -> Any:
    return 0.0 if isinstance(value, float) and value == 0.0 else value


class AggregateContract:
    """What every aggregate holds; subclass it under a name that begins with ``Test``.

    Override :meth:`aggregates` and :meth:`reference`, and :meth:`inputs` where only some values are of interest.
    """

    hop: ClassVar[timedelta] = hours(1)
    """Windows of the aggregates must be whole numbers of it."""
    examples: ClassVar[int] = 25
    """How many logs each property is tried on, per aggregate."""
    fingerprints: ClassVar[Mapping[str, str]] = {}
    """Name of an aggregate -> its :func:`fingerprint`, once it is in use: a change orphans what was stored."""

    @classmethod
    def aggregates(cls) -> Sequence[Aggregate]:
        """The aggregates to try, over fields of :data:`SOURCE`: each dtype and each parameter that matters; named apart."""
        raise NotImplementedError

    def reference(self, aggregate: Aggregate, events: Sequence[Input], boundary: int) -> Any:
        """The value of ``aggregate`` at ``boundary`` (microseconds), as plain and obvious Python.

        ``events`` are those of one window, in no order, that pass the filter and whose field is not null.
        """
        raise NotImplementedError

    def inputs(self, dtype: str) -> st.SearchStrategy[Any]:
        """Values of a field, none of them null."""
        return values(dtype)

    # ------------------------------------------------------------------------------------------------ what is tried

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test that takes an ``aggregate`` runs once for each."""
        if "aggregate" in metafunc.fixturenames:
            made = list(type(self).aggregates())
            metafunc.parametrize("aggregate", made, ids=[a.name for a in made])

    def test_windows_are_what_the_reference_says(self, aggregate: Aggregate) -> None:
        """Every row of every window: as events come in, as they fall out again, and when none is left."""
        group = self._group(aggregate)

        def holds(data: st.DataObject) -> None:
            log = data.draw(self._logs(group))
            self._check(group, log, rows_between(tile(batch_of(log), group), group, -1, FOREVER))

        self._try(holds)

    def test_no_split_order_or_merge_tree_changes_a_bit(self, aggregate: Aggregate) -> None:
        """Parts of a log, dealt and merged in any way and carried as bytes, give one state and one value."""
        group = self._group(aggregate)

        def holds(data: st.DataObject) -> None:
            log = data.draw(self._logs(group))
            want = plain(tile(batch_of(log), group))
            hands: list[list[Event]] = [[] for _ in range(data.draw(st.integers(1, 4)))]
            for event in data.draw(st.permutations(log)):
                hands[data.draw(st.integers(0, len(hands) - 1))].append(event)
            parts = [over_ipc(tile(batch_of(hand), group)) for hand in hands]
            at_once = merge(parts, group)
            while len(parts) > 1:
                some = [parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(data.draw(st.integers(2, len(parts))))]
                parts.append(over_ipc(merge(some, group)))
            for tiles in (at_once, merge(parts, group)):
                assert plain(tiles) == want
                self._check(group, log, rows_between(tiles, group, -1, FOREVER))

        self._try(holds)

    def test_merging_is_associative_and_commutative(self, aggregate: Aggregate) -> None:
        """``(a b) c = a (b c) = c (b a)``, to the bit, of states of one tile."""
        group = self._group(aggregate)

        def holds(data: st.DataObject) -> None:
            a, b, c = (tile(batch_of(data.draw(self._logs(group, one_tile=True))), group) for _ in range(3))
            want = plain(merge([merge([a, b], group), c], group))
            assert plain(merge([a, merge([b, c], group)], group)) == want
            assert plain(merge([c, merge([b, a], group)], group)) == want
            assert plain(merge([c, a, b], group)) == want

        self._try(holds)

    def test_the_arrow_form_is_canonical(self, aggregate: Aggregate) -> None:
        """Equal multisets of events give equal columns, of the type that was said, and reading and writing them again changes nothing."""
        group = self._group(aggregate)

        def holds(data: st.DataObject) -> None:
            log = data.draw(self._logs(group))
            tiles, other = tile(batch_of(log), group), tile(batch_of(data.draw(st.permutations(log))), group)
            assert tiles.schema.equals(tile_schema(group))
            tiles.validate(full=True)
            assert plain(tiles) == plain(other)
            start = data.draw(st.integers(0, tiles.num_rows))
            for spec in aggregate.states():
                column = tiles.column(tiles.schema.get_field_index(spec.key))
                assert column.null_count == 0 or not pa.types.is_list(column.type)
                for part in (column, column.slice(start)):
                    again = spec.state.from_arrow(part, spec.param).to_arrow()
                    assert again.type == column.type and bits(again.to_pylist()) == bits(part.to_pylist())

        self._try(holds)

    def test_rows_come_step_by_step(self, aggregate: Aggregate) -> None:
        """The stream's way: the rows of each step from the events known by then are those of one run at the end."""
        group = self._group(aggregate)

        def holds(data: st.DataObject) -> None:
            log = data.draw(self._logs(group))
            steps = sorted(data.draw(st.sampled_from([0, FOREVER, *(e["time"] for e in log)])) for _ in range(3))
            found: list[dict[str, Any]] = []
            for after, upto in zip([-1, *steps], [*steps, FOREVER], strict=True):
                known = tile(batch_of([e for e in log if e["time"] < upto]), group)
                found += plain(rows_between(known, group, after, upto))
            want = plain(rows_between(tile(batch_of(log), group), group, -1, FOREVER))
            assert sorted(found, key=repr) == sorted(want, key=repr)

        self._try(holds)

    def test_nulls_add_nothing(self, aggregate: Aggregate) -> None:
        """Events whose field is null leave each state as that of no event, and values as they are."""
        if not aggregate.takes:
            pytest.skip("takes no field")
        group = self._group(aggregate)

        def holds(data: st.DataObject) -> None:
            log = data.draw(self._logs(group, one_tile=True).filter(bool))
            nulls = [{**e, aggregate.column: None} for e in data.draw(self._logs(group, one_tile=True).filter(bool))]
            with_nulls, without = tile(batch_of(log + nulls), group), tile(batch_of(log), group)
            for spec in aggregate.states():
                at = without.schema.get_field_index(spec.key)
                assert bits(with_nulls.column(at).to_pylist()) == bits(without.column(at).to_pylist())
            self._check(group, nulls, rows_between(tile(batch_of(nulls), group), group, -1, FOREVER))

        self._try(holds)

    def test_a_busy_week(self, aggregate: Aggregate) -> None:
        """Hundreds of events of a few keys with bursts, equal times, duplicates, nulls and gaps, in many batches."""
        group = self._group(aggregate)
        rng = random.Random(7)
        pools: dict[str, list[Any]] = {"x": [*FLOATS, 2.5], "n": [*INTS, 3], "s": list(TEXTS), "b": [True, False], "at": [0, HOUR]}
        if aggregate.column is not None:
            pool = pools[aggregate.column] = []

            def draw(some: list[Any]) -> None:
                pool.extend(some)

            given(st.lists(self._values(aggregate), min_size=5, max_size=5))(self._settings(5)(draw))()
        at, log = 375_000 * HOUR, []
        for _ in range(400):
            at += rng.choice([0, 0, 1, 1000, 60_000_000, HOUR, rng.randrange(HOUR)])
            event = {"time": at, "key": rng.choice("ab"), "serial": rng.randrange(-3, 3)}
            log.append({**event, **{name: rng.choice([None, rng.choice(of), rng.choice(of)]) for name, of in pools.items()}})
        log += [dict(rng.choice(log)) for _ in range(40)]
        rng.shuffle(log)
        parts = [tile(batch_of(log[i : i + 55]), group) for i in range(0, len(log), 55)]
        self._check(group, log, rows_between(merge(parts, group), group, -1, FOREVER))

    # -------------------------------------------------------------------------------------------- what is said of it

    def test_the_output_is_as_said(self, aggregate: Aggregate) -> None:
        """Names, types and widths, as Feast, the transform graph and models are told them."""
        group = self._group(aggregate)
        assert [f.name for f in group.features] == [f"{aggregate.name}_{n}" for n in self._windows(aggregate)]

        def holds(data: st.DataObject) -> None:
            rows = rows_between(tile(batch_of(data.draw(self._logs(group))), group), group, -1, FOREVER)
            for feature in group.features:
                column = rows.column(rows.schema.get_field_index(feature.name))
                assert column.type == feature.output.arrow_type and (feature.output.nullable or not column.null_count)
                if feature.output.width is not None:
                    assert not column.flatten().null_count
                    assert all(len(v) <= feature.output.width for v in column.to_pylist())

        self._try(holds)

    def test_it_is_pickled_and_copied(self, aggregate: Aggregate) -> None:
        """As it goes to workers; a class of a feature repository with them."""
        for again in (*(pickle.loads(pickle.dumps(aggregate, protocol=p)) for p in (2, 4, 5)), copy.deepcopy(aggregate)):
            assert type(again) is type(aggregate)
            assert again.canonical() == aggregate.canonical()
            assert again.name == aggregate.name and again.windows == aggregate.windows
            assert tile_schema(self._group(again)).equals(tile_schema(self._group(aggregate)))

    def test_another_process_reads_them(self, tmp_path: Path) -> None:
        """A worker that imported nothing and knows no folder has the same definitions, with the same fingerprints."""
        made = list(type(self).aggregates())
        code = (
            "import base64, json, pickle, sys; made = pickle.loads(base64.b64decode(sys.stdin.read())); "
            "print(json.dumps([[type(a).__qualname__, a.canonical()] for a in made]))"
        )
        ours = str(Path(aggregate.__file__).parents[2])
        env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), ours) if p)}
        data = base64.b64encode(pickle.dumps(made)).decode()
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        want = json.loads(json.dumps([[type(a).__qualname__, a.canonical()] for a in made]))
        assert json.loads(done.stdout.splitlines()[-1]) == want

    def test_the_fingerprint_says_what_can_change_a_value(self, aggregate: Aggregate) -> None:
        """Kind, parameters, field, windows and filter; and nothing that differs from one process to the next."""
        canonical = aggregate.canonical()
        assert canonical["kind"] == type(aggregate).kind
        assert {f.name for f in fields(aggregate)} <= set(canonical)
        assert fingerprint(replace(aggregate)) == fingerprint(aggregate)
        other: Predicate = Field("serial") > 0
        for changed in ({"over": [*aggregate.windows, hours(77)]}, {"where": other if aggregate.where is None else None}):
            assert fingerprint(replace(aggregate, **changed)) != fingerprint(aggregate)
        if aggregate.name in self.fingerprints:
            assert fingerprint(aggregate) == self.fingerprints[aggregate.name], "what was stored under this definition is orphaned"

    def test_the_aggregates_are_told_apart(self) -> None:
        """Two definitions with equal fingerprints would take each other's rows for their own."""
        made = list(type(self).aggregates())
        assert made, "aggregates() gives none"
        assert len({fingerprint(a) for a in made}) == len(made)

    def test_other_types_are_refused(self, aggregate: Aggregate) -> None:
        """A field of a dtype that it does not take is one line at construction, which names the aggregate and the dtype."""
        if not aggregate.takes:
            with pytest.raises(DefinitionError, match="takes no field"):
                replace(aggregate, column="x")
            return
        for f in SOURCE.fields:
            changed = replace(aggregate, column=f.name, where=None)
            if f.dtype in aggregate.takes:
                self._group(changed)
                continue
            with pytest.raises(DefinitionError) as refused:
                self._group(changed)
            assert type(aggregate).__name__ in str(refused.value) and str(f.dtype) in str(refused.value)
            assert "\n" not in str(refused.value)

    # ------------------------------------------------------------------------------------------------------- helpers

    def _group(self, aggregate: Aggregate) -> FeatureGroup:
        return FeatureGroup("contract_group", SOURCE, Entity("key"), self.hop, hours(48), [aggregate])

    def _windows(self, aggregate: Aggregate) -> list[str]:
        return [duration_name(w) for w in aggregate.windows]

    def _settings(self, examples: int) -> settings:
        slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
        return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=slow)

    def _try(self, holds: Callable[[st.DataObject], None]) -> None:
        given(st.data())(self._settings(self.examples)(holds))()

    def _values(self, aggregate: Aggregate) -> st.SearchStrategy[Any]:
        return self.inputs(str(SOURCE.field(str(aggregate.column)).dtype))

    def _logs(self, group: FeatureGroup, one_tile: bool = False) -> st.SearchStrategy[list[Event]]:
        """Logs of up to 16 events of two keys (one key and tile): equal times, duplicates, times on the borders of hops, gaps."""
        (aggregate,) = group.aggregates
        hop, longest = group.hop_us, group.longest_us // group.hop_us
        steps = st.just(0) if one_tile else st.sampled_from([0, 0, 0, 1, 1, 2, longest - 1, longest, longest + 1, 3 * longest])
        columns = {
            f.name: st.none() | (self._values(aggregate) if f.name == aggregate.column else values(str(f.dtype)))
            for f in SOURCE.fields
            if not f.required and (f.name == aggregate.column or aggregate.where is not None)
        }
        event = st.tuples(
            steps,
            st.sampled_from([0, 1, hop // 2, hop - 1]),
            st.just("a") if one_tile else st.sampled_from("ab"),
            st.integers(-2, 2),
            st.fixed_dictionaries(columns),
            st.booleans(),
        )

        def log(drawn: list[Any]) -> list[Event]:
            out: list[Event] = []
            at = 375_000
            for step, offset, key, serial, others, twice in drawn:
                at += step
                nothing = {f.name: None for f in SOURCE.fields}
                out.append({**nothing, "time": at * hop + offset, "key": key, "serial": serial, **others})
                out += [dict(out[-1])] if twice and len(drawn) % 3 == 0 else []
            return out

        return st.lists(event, max_size=16).map(log)

    def _check(self, group: FeatureGroup, log: Sequence[Event], rows: pa.RecordBatch) -> None:
        """The rows are those of the reference over each window, to the bit."""
        (aggregate,) = group.aggregates
        assert rows.schema.equals(group.row_schema)
        rows.validate(full=True)
        where = aggregate.filter
        passed = [True] * len(log) if where is None else where.mask(batch_of(log)).to_pylist()
        want = []
        overs = [f.over for f in group.features]
        for key in sorted({e["key"] for e in log}):
            mine = sorted(((e, p) for e, p in zip(log, passed, strict=True) if e["key"] == key), key=lambda m: m[0]["time"])
            times = [e["time"] for e, _ in mine]
            enters = {(t // group.hop_us + 1) * group.hop_us for t in times}
            for boundary in sorted(enters | {t + over for t in enters for over in overs}):
                row: dict[str, Any] = {"key": key, "event_timestamp": boundary}
                for feature in group.features:
                    window = mine[bisect_left(times, boundary - feature.over) : bisect_left(times, boundary)]
                    seen = [
                        Input(_zero(e[aggregate.column]) if aggregate.column else None, e["time"], e["serial"])
                        for e, p in window
                        if p and (aggregate.column is None or e[aggregate.column] is not None)
                    ]
                    row[feature.name] = self.reference(replace(aggregate), seen, boundary)
                row["tandem_revision"] = bisect_left(times, boundary) - bisect_left(times, boundary - group.longest_us)
                want.append({n: bits(v) for n, v in row.items()})
        got = plain(rows)
        assert len(got) == len(want)
        for mine_row, theirs in zip(got, want, strict=True):
            assert mine_row == theirs
