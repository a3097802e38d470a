"""What the compiled plan answers is what a reader with a protobuf object per value would: every type, null, missing, TTL, projection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.protos.feast.types.Value_pb2 import BytesList, DoubleList, Value
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.answer_columns import Columns
from serving.catalog import Catalog, View, entity_key
from serving.features import STATUSES, OnlineFeatures
from serving.model_inputs import INPUT_DTYPES, encoded
from serving.online_answer import online_json
from serving.online_store.base import OrderedOnlineStore
from serving.online_store.decoding import python_value
from serving.online_store.feature_rows import lasts
from serving.packed_view_rows import joined
from serving.read_plan import ViewRows
from serving.request_errors import ModelInputError
from tests.examples import examples
from tests.redis_server import redis_server
from tests.unit.test_online_answer import one_by_one
from transforms.instants import micros_of

NOW = datetime(2024, 5, 1, tzinfo=UTC)
TYPES: dict[str, tuple[Any, Any]] = {
    "f64": (Float64, lambda i: Value(double_val=i / 8)),
    "f32": (Float32, lambda i: Value(float_val=i / 8)),
    "i64": (Int64, lambda i: Value(int64_val=i * 2**40 - 5)),
    "i32": (Int32, lambda i: Value(int32_val=-i)),
    "s": (String, lambda i: Value(string_val=f"naïve {i}")),
    "raw": (Bytes, lambda i: Value(bytes_val=bytes([i % 256, 255]))),
    "b": (Bool, lambda i: Value(bool_val=i % 2 == 0)),
    "ts": (UnixTimestamp, lambda i: Value(unix_timestamp_val=i * 1000)),
    "lf": (Array(Float64), lambda i: Value(double_list_val=DoubleList(val=[i / 4] * (i % 3)))),
    "lraw": (Array(Bytes), lambda i: Value(bytes_list_val=BytesList(val=[b"a"]))),
}
OWN = [Field(name="tandem_revision", dtype=Int64), Field(name="tandem_fingerprint", dtype=String)]
N = 60
"""Entities that have rows; every seventh feature is null, every fifth entity has no row."""


def _repo(root: Path, online_store: str) -> FeatureStore:
    repo = root / "repo"
    repo.mkdir(parents=True)
    text = f"project: p\nprovider: local\nregistry: {root}/registry.db\nentity_key_serialization_version: 3\nofflinestore: {{}}\n"
    (repo / "feature_store.yaml").write_text(text + online_store)
    store = FeatureStore(repo_path=str(repo))
    source = FileSource(name="rows", path=str(root / "rows.parquet"), timestamp_field="event_timestamp")
    city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)
    number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
    small = Entity(name="small", join_keys=["small"], value_type=ValueType.INT32)
    every = [Field(name=n, dtype=t) for n, (t, _) in TYPES.items()]
    pair = [Field(name="city", dtype=String), Field(name="number", dtype=Int64)]
    views = [
        FeatureView(name="every", entities=[number, city], ttl=timedelta(hours=6), source=source, schema=[*pair, *every, *OWN]),
        FeatureView(name="stock", entities=[city], ttl=timedelta(hours=6), source=source, schema=[pair[0], *every]),
        FeatureView(name="twin", entities=[city], ttl=timedelta(0), source=source, schema=[pair[0], *every, *OWN]),
        FeatureView(name="small_keys", entities=[small], source=source, schema=[Field(name="small", dtype=Int32), every[0]]),
        FeatureView(name="everybody", entities=[], source=source, schema=[every[0]]),
    ]
    services = [
        FeatureService(name="all", features=list(views)),
        FeatureService(
            name="trip",
            features=[
                views[1][["f64", "s"]].with_name("from").with_join_key_map({"city": "origin"}),
                views[1][["f64"]].with_name("to").with_join_key_map({"city": "destination"}),
                views[2][["i64"]],
            ],
        ),
    ]
    store.apply([city, number, small, *views, *services])
    _write(store, {v.name: v for v in views})
    return store


def _write(store: FeatureStore, views: dict[str, FeatureView]) -> None:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    provider: Any = store._get_provider()
    online = provider.online_store
    for table in views.values():
        data = []
        for i in range(N):
            if i % 5 == 3:
                continue
            values = {f.name: Value() if (i + k) % 7 == 0 else TYPES[f.name][1](i) for k, f in enumerate(table.features) if f.name in TYPES}
            if i % 6 == 0:
                values.pop("f64")
            if any(f.name == "tandem_revision" for f in table.features):
                values |= {"tandem_revision": Value(int64_val=i % 4), "tandem_fingerprint": Value(string_val="ab"[i % 2])}
            keys = {"city": Value(string_val=f"c{i}"), "number": Value(int64_val=-i), "small": Value(int32_val=i)}
            names = [c.name for c in table.entity_columns]
            at = NOW - timedelta(minutes=10 * i, microseconds=i)
            own = EntityKey(join_keys=names, entity_values=[keys.get(n, Value(string_val="")) for n in names])
            data.append((own, values, at, None))
        online.online_write_batch(store.config, table, data, None)


@pytest.fixture(scope="module", params=["sqlite", "redis", "stock sqlite"])
def features(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineFeatures]:
    root = tmp_path_factory.mktemp("plan")
    kind = request.param.split()[-1]
    with redis_server() as server:
        where = f"connection_string: '{server.connection_string}'" if kind == "redis" else f"path: {root}/online.db"
        ours = f"serving.online_store.{kind}.Ordered{kind.title()}OnlineStore"
        _repo(root, f"online_store: {{type: {request.param.split()[-1] if 'stock' in request.param else ours}, {where}}}\n")
        made = OnlineFeatures(root / "repo", now_us=lambda: micros_of(NOW))
        made.refresh()
        made.connect()
        yield made


def by_protobuf(features: OnlineFeatures, view: View, wanted: list[str], keys: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What is right, by a protobuf object per value and Python's own comparisons."""
    now = micros_of(NOW)
    own = [n for n in ("tandem_revision", "tandem_fingerprint") if n in view.types]

    def asked(store: Any) -> Any:
        read = store.online_read_stored if isinstance(store, OrderedOnlineStore) else store.online_read
        return read(features.config, view.feast, [entity_key(view, k) for k in keys], list(dict.fromkeys([*wanted, *own])))

    out = []
    for at, values in features._asked(asked):
        us = 0 if at is None or values is None else micros_of(at)
        old = values is not None and view.ttl_us and now - us > view.ttl_us and not lasts(values.get("tandem_revision"))
        status = "NOT_FOUND" if values is None else "OUTSIDE_MAX_AGE" if old else "PRESENT"
        row: dict[str, Any] = {"": (status, us, None if values is None else (now - us) / 1e6)}
        for name in wanted:
            value = None if status != "PRESENT" or name not in values else python_value(values[name])
            word = status if status != "PRESENT" else "NOT_FOUND" if name not in values else "NULL" if value is None else "PRESENT"
            row[name] = (word, value)
        row["revision"] = None if values is None or "tandem_revision" not in own else python_value(values["tandem_revision"])
        row["print"] = None if status != "PRESENT" or "tandem_fingerprint" not in own else python_value(values["tandem_fingerprint"])
        out.append(row)
    return out


def assert_same(features: OnlineFeatures, service: str, entities: Any, n: int) -> None:
    wanted = features.catalog.service(service)
    groups = features.read(wanted, entities, n)
    pairs = [(groups[view], feature) for view, feature in wanted.pairs]
    names = [feature for _, feature in wanted.pairs]
    assert online_json(names, entities, pairs, n) == one_by_one(names, entities, pairs, n)
    used = features.catalog.used(wanted)
    assert list(groups) == list(used)
    for name, view in used.items():
        names = [f for v, f in wanted.pairs if v == name]
        keys = list(zip(*(entities[k] for k in view.keys))) if view.keys else [()] * n
        _compare(groups[name], by_protobuf(features, view, names, keys), names, view)


def _compare(got: ViewRows, right: list[dict[str, Any]], names: list[str], view: View) -> None:
    _compare_columns(got)
    assert [STATUSES[s] for s in got.row_status] == [r[""][0] for r in right]
    assert got.timestamps_us.tolist() == [r[""][1] for r in right]
    assert [None if math.isnan(a) else a for a in got.ages.tolist()] == [r[""][2] for r in right]
    assert got.revisions == [r["revision"] for r in right]
    assert got.fingerprints == [r["print"] for r in right]
    for name in names:
        kind = view.types[name]
        raw = [r[name][1] for r in right]
        scaled = [None if v is None else v * 1_000_000 for v in raw] if kind is not None and pa.types.is_timestamp(kind) else raw
        assert got.columns[name].equals(pa.array(scaled, kind)), name
        assert got.columns[name].type == kind
        assert [STATUSES[s] for s in got.statuses[name]] == [r[name][0] for r in right], name


def _compare_columns(got: ViewRows) -> None:
    """What the request log takes is what the answer says, whichever way either was made."""
    for name, column in got.columns.items():
        assert got.column_of(name).equals(column)
        assert got.statuses_of(name).tolist() == got.statuses[name].tolist()
    assert list(got.features) == list(got.columns)
    assert got.revision_column.to_pylist() == list(got.revisions)
    assert got.fingerprint_column.to_pylist() == list(got.fingerprints)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(25))
@given(places=st.lists(st.integers(0, N + 3), min_size=1, max_size=70), shift=st.integers(0, 5))
def test_any_entities_of_all_views(features: OnlineFeatures, places: list[int], shift: int) -> None:
    """Repeated entities, unknown ones, keys of several columns, 32 bits and none."""
    others = [(p + shift) % (N + 4) for p in places]
    entities = {"city": [f"c{i}" for i in places], "number": [-i for i in places], "small": others}
    assert_same(features, "all", entities, len(places))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(15))
@given(places=st.lists(st.tuples(st.integers(0, N), st.integers(0, N)), min_size=1, max_size=40))
def test_projections_with_keys_of_their_own(features: OnlineFeatures, places: list[tuple[int, int]]) -> None:
    entities = {
        "origin": [f"c{i}" for i, _ in places],
        "destination": [f"c{k}" for _, k in places],
        "city": [f"c{i}" for i, _ in places],
    }
    assert_same(features, "trip", entities, len(places))


@pytest.mark.parametrize("places", [[0], list(range(1, 25)), [5, 5, 3, N + 1], [*range(N), 2]], ids=len)
def test_a_model_is_fed_alike_by_answers_and_by_their_arrow_columns(features: OnlineFeatures, places: list[int]) -> None:
    """Every type as every input, also what cannot be one: with and without nulls, few rows and many."""
    entities: dict[str, list[Any]] = {"city": [f"c{i}" for i in places], "number": [-i for i in places], "small": places}
    answered = Columns()
    for view, group in features.read(features.catalog.service("all"), entities, len(places)).items():
        answered.add(f"{view}__", group.columns)

    def fed(columns: Any, name: str, dtype: str) -> Any:
        try:
            array = encoded([columns, columns], [(name, dtype)], 2 * len(places) + 3)[name]
            return array.tolist() if dtype == "string" else array.tobytes()
        except ModelInputError as e:
            return str(e)

    for name, column in dict(answered).items():
        for dtype in INPUT_DTYPES:
            assert fed(answered, name, dtype) == fed({name: column}, name, dtype), (name, dtype)


def test_a_registry_is_compiled_when_it_changed_and_when_it_is_readable_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _repo(tmp_path, f"online_store: {{type: sqlite, path: {tmp_path}/online.db}}\n")
    made, compiled, of = OnlineFeatures(tmp_path / "repo"), list[Catalog](), Catalog.of

    def counted(feast: FeatureStore) -> Catalog:
        compiled.append(of(feast))
        return compiled[-1]

    monkeypatch.setattr(Catalog, "of", counted)
    for _ in range(3):
        made.refresh()
    assert len(compiled) == 1 and made.catalog is compiled[0]
    store.apply([FeatureService(name="one_more", features=[store.get_feature_view("twin")])])
    made.refresh()
    assert "one_more" in made.catalog.services and len(compiled) == 2
    kept = (tmp_path / "registry.db").read_bytes()
    (tmp_path / "registry.db").write_bytes(b"\xff" * 40)
    made.refresh()
    assert "cannot be read" in made.problem and "one_more" in made.catalog.services
    (tmp_path / "registry.db").write_bytes(kept)
    made.refresh()
    assert made.problem == "" and made.catalog is compiled[1], "plans made of it stay"


def test_more_entities_than_one_read_takes(features: OnlineFeatures) -> None:
    n = 4_500
    checks: list[int] = []
    entities: dict[str, list[Any]] = {
        "city": [f"c{i}" for i in range(n)],
        "number": [-i for i in range(n)],
        "small": [i % N for i in range(n)],
    }
    assert_same(features, "all", entities, n)
    features.read(features.catalog.service("all"), entities, n, lambda: checks.append(1))
    assert len(checks) == (3 if features._asked(lambda store: getattr(store, "reads_views_at_once", False)) else 3 * 3 + 1 + 1)
    assert np.array_equal(
        features.read(features.catalog.service("all"), entities, n)["twin"].timestamps_us[:N],
        features.read(features.catalog.service("all"), {k: v[:N] for k, v in entities.items()}, N)["twin"].timestamps_us,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(15))
@given(parts=st.lists(st.tuples(st.lists(st.integers(0, N + 3), min_size=1, max_size=30), st.integers(0, 10)), min_size=1, max_size=4))
def test_answers_that_are_joined_say_what_each_did(features: OnlineFeatures, parts: list[tuple[list[int], int]]) -> None:
    """As the request log and the metrics see them: of several requests, each as of an instant of its own."""
    wanted, groups, before = features.catalog.service("all"), [], features.now_us
    try:
        for places, hours in parts:
            features.now_us = lambda hours=hours: micros_of(NOW) + hours * 3_600_000_000  # type: ignore[misc]
            entities: dict[str, list[Any]] = {"city": [f"c{i}" for i in places], "number": [-i for i in places], "small": places}
            groups.append(features.read(wanted, entities, len(places)))
    finally:
        features.now_us = before
    for name in groups[0]:
        each = [g[name] for g in groups]
        some = joined(each)
        for one in some:
            _compare_columns(one)
        order = each if len(some) > 1 else some  # those of fields stay as they are
        if len(some) == 1:
            assert len(some[0]) == sum(map(len, each))
        for value in ("row_status", "timestamps_us", "ages"):
            right = np.concatenate([getattr(e, value) for e in each])
            assert np.array_equal(np.concatenate([getattr(s, value) for s in order]), right, equal_nan=True)
        for own in ("fingerprints", "revisions"):
            assert [v for s in order for v in getattr(s, own)] == [v for e in each for v in getattr(e, own)]
        for feature in each[0].columns:
            assert pa.concat_arrays([s.columns[feature] for s in order]).equals(pa.concat_arrays([e.columns[feature] for e in each]))
            assert np.array_equal(np.concatenate([s.statuses[feature] for s in order]), np.concatenate([e.statuses[feature] for e in each]))
        codes = [e.statuses[f] for e in each for f in e.columns]
        assert np.array_equal(sum(s.status_counts for s in some), np.bincount(np.concatenate(codes), minlength=4))
