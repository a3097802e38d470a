"""Labels: the nearest request of the same keys and fields, corrections, nothing twice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.monitoring.labels import LABELS, label_requests, match, read_labels
from pipelines.project.repository import Repo, load_repo
from pipelines.training.user_code import model_of
from tests.examples import examples
from transforms.definitions import TIMESTAMP
from transforms.errors import ConfigError, DataError

T0 = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = 3_600_000_000
NOW = datetime(2024, 6, 1, tzinfo=UTC)

FEATURES = """
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes
parcels = EventSource(name="parcels", fields=[Field("id", "string", required=True), Field("depot", "string", required=True)],
                      event_time="at", tie_breaker="id", files="events/parcels")
depot_load = FeatureGroup(name="depot_load", source=parcels, entity=Entity("depot"), hop=minutes(30), ttl=hours(3),
                          aggregates=[Count(over=hours(1))])
"""
MODEL = """
from datetime import timedelta
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pipelines.training.definition import Model
from transforms.definitions import Field

def spine(data, start, end):
    table = pq.read_table(data / "spine.parquet")
    t = table.column("event_timestamp")
    return table.filter(pc.and_(pc.greater_equal(t, pa.scalar(start, t.type)), pc.less(t, pa.scalar(end, t.type))))

model = Model(name="slow", spine="labels:spine", label="slow", entity_keys=["depot"], features=["depot_load:count_1h"],
              request_fields=[Field("size", "string", required=True), Field("weight", "float64")], label_delay=timedelta(hours=24))
"""


def us(hours: float) -> int:
    return round(T0.timestamp() * 1e6 + hours * HOUR)


def stamps(hours: list[float]) -> pa.Array:
    return pa.array([us(h) for h in hours], pa.int64()).cast(TIMESTAMP)


def spine_of(rows: Sequence[tuple[str, str, float | None, float, float]]) -> pa.Table:
    depot, size, weight, at, slow = (list(c) for c in zip(*rows, strict=True))
    return pa.table(
        {
            "event_timestamp": stamps(at),
            "depot": pa.array(depot, pa.string()),
            "size": pa.array(size, pa.string()),
            "weight": pa.array(weight, pa.float64()),
            "slow": pa.array(slow, pa.float64()),
        }
    )


def log_of(rows: Sequence[tuple[str, str, str, float | None, float]], endpoint: str = "predict", model: str = "slow") -> pa.Table:
    request, depot, size, weight, at = (list(c) for c in zip(*rows, strict=True))
    n = len(rows)
    return pa.table(
        {
            "tandem_request": pa.array(request, pa.string()),
            "tandem_row": pa.array([0] * n, pa.int32()),
            "tandem_at": stamps([h + 100 for h in at]),
            "tandem_as_of": stamps(at),
            "tandem_endpoint": pa.array([endpoint] * n, pa.string()),
            "tandem_model": pa.array([model] * n, pa.string()),
            "tandem_version": pa.array([1] * n, pa.int64()),
            "tandem_run": pa.array([None] * n, pa.string()),
            "tandem_prediction": pa.array([0.5] * n, pa.float64()),
            "depot": pa.array(depot, pa.string()),
            "size": pa.array(size, pa.string()),
            "weight": pa.array(weight, pa.float64()),
        }
    )


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "features.py").write_text(FEATURES)
    (folder / "labels.py").write_text(MODEL)
    (folder / "tandem.yaml").write_text("data: ../data\ndefinitions: features\nmodels: ['labels:model']\n")
    (tmp_path / "data").mkdir()
    return load_repo(folder)


def put(repo: Repo, spine: pa.Table, log: pa.Table | None = None, name: str = "a") -> None:
    pq.write_table(spine, repo.data / "spine.parquet", coerce_timestamps="us")
    if log is not None:
        folder = repo.data / "requests" / "date=2024-05-05"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(log, folder / f"{name}.parquet", coerce_timestamps="us")


def label(repo: Repo, now: datetime = NOW, **options: Any) -> Any:
    return label_requests(repo, model_of(repo, None), now, **options)


SPINE = [("north", "s", 1.5, 0.0, 1.0), ("north", "s", 1.5, 10.0, 0.0), ("south", "m", None, 0.0, 1.0), ("east", "s", 2.0, 0.0, 1.0)]


def test_nearest_row_of_the_same_keys_and_fields(repo: Repo) -> None:
    asked = [
        ("near", "north", "s", 1.5, 1.0),
        ("later", "north", "s", 1.5, 9.0),
        ("null", "south", "m", None, -2.0),
        ("other", "north", "s", 1.6, 0.0),
        ("far", "east", "s", 2.0, 60.0),
    ]
    put(repo, spine_of(SPINE), log_of(asked))
    done = label(repo)
    assert (done.answers, done.labelled, done.added, done.unmatched, done.ambiguous, done.waiting) == (5, 3, 3, 2, 0, 0)
    found = {r["tandem_request"]: r for r in read_labels(repo.data, "slow").to_pylist()}
    assert {k: v["label"] for k, v in found.items()} == {"near": 1.0, "later": 0.0, "null": 1.0}
    assert found["later"]["event_timestamp"] == T0 + timedelta(hours=10)
    assert found["later"]["label_time"] == T0 + timedelta(hours=34)
    assert read_labels(repo.data, "slow").schema == LABELS


def test_a_tie_of_different_labels_is_ambiguous_and_a_tie_of_equal_ones_is_not(repo: Repo) -> None:
    rows = [("north", "s", 1.0, 0.0, 1.0), ("north", "s", 1.0, 4.0, 0.0), ("south", "s", 1.0, 0.0, 1.0), ("south", "s", 1.0, 4.0, 1.0)]
    rows += [("west", "s", 1.0, 0.0, 1.0), ("west", "s", 1.0, 0.0, 0.0)]
    put(repo, spine_of(rows), log_of([("a", "north", "s", 1.0, 2.0), ("b", "south", "s", 1.0, 2.0), ("c", "west", "s", 1.0, 0.0)]))
    done = label(repo)
    assert (done.labelled, done.ambiguous, done.unmatched) == (1, 2, 0)


def test_labels_come_only_when_they_are_known(repo: Repo) -> None:
    put(repo, spine_of(SPINE), log_of([("near", "north", "s", 1.5, 0.0), ("later", "north", "s", 1.5, 10.0)]))
    before = label(repo, T0 + timedelta(hours=23))
    assert (before.labelled, before.waiting, before.file) == (0, 2, None)
    between = label(repo, T0 + timedelta(hours=30))
    assert (between.labelled, between.added, between.waiting) == (1, 1, 1)
    after = label(repo, T0 + timedelta(hours=40))
    assert (after.labelled, after.added, after.waiting) == (2, 1, 0)


def test_again_changes_nothing_and_a_correction_is_a_later_file(repo: Repo) -> None:
    put(repo, spine_of(SPINE), log_of([("near", "north", "s", 1.5, 0.0), ("later", "north", "s", 1.5, 10.0)]))
    label(repo)
    folder = repo.data / "labels" / "slow"
    first = {p.name: p.read_bytes() for p in folder.glob("*.parquet")}
    again = label(repo)
    assert (again.added, again.corrected, again.file) == (0, 0, None)
    assert {p.name: p.read_bytes() for p in folder.glob("*.parquet")} == first
    corrected = [("north", "s", 1.5, 0.0, 0.0), *SPINE[1:]]
    put(repo, spine_of(corrected), log_of([("new", "south", "m", None, 0.0)]), "b")
    third = label(repo)
    assert (third.added, third.corrected, third.file) == (1, 1, "labels/slow/part-000002.parquet")
    assert (folder / "part-000001.parquet").read_bytes() == first["part-000001.parquet"]
    found = {r["tandem_request"]: r["label"] for r in read_labels(repo.data, "slow").to_pylist()}
    assert found == {"near": 0.0, "later": 0.0, "new": 1.0}


def test_one_request_id_used_twice_is_two_answers(repo: Repo) -> None:
    put(repo, spine_of(SPINE), log_of([("same", "north", "s", 1.5, 0.0), ("same", "north", "s", 1.5, 10.0)]))
    assert label(repo).labelled == 2
    assert read_labels(repo.data, "slow").column("label").to_pylist() == [1.0, 0.0]


def test_other_models_and_plain_feature_reads_are_left_alone(repo: Repo) -> None:
    rows = [("a", "north", "s", 1.5, 0.0)]
    put(repo, spine_of(SPINE), log_of(rows, model="other"))
    put(repo, spine_of(SPINE), log_of(rows, endpoint="get-online-features"), "b")
    put(repo, spine_of(SPINE), log_of([("c", "north", "s", 1.5, 0.0)], endpoint="infer"), "c")
    assert label(repo).answers == 1


def test_no_log_no_labels(repo: Repo) -> None:
    put(repo, spine_of(SPINE))
    done = label(repo)
    assert (done.answers, done.file) == (0, None)
    assert read_labels(repo.data, "slow").num_rows == 0


def test_what_is_broken_is_one_line(repo: Repo) -> None:
    put(repo, spine_of(SPINE), log_of([("a", "north", "s", 1.5, 0.0)]))
    label(repo)
    (repo.data / "labels" / "slow" / "part-000002.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"labels: .*part-000002\.parquet cannot be read .* move it elsewhere and run tandem labels again"):
        read_labels(repo.data, "slow")
    shutil.rmtree(repo.data / "labels")
    (repo.data / "requests" / "date=2024-05-05" / "z.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"request log: .*z\.parquet cannot be read"):
        label(repo)
    with pytest.raises(ConfigError, match="the repository has slow"):
        model_of(repo, "quick")


def test_an_answer_of_another_definition_is_refused(repo: Repo) -> None:
    put(repo, spine_of(SPINE), log_of([("a", "north", "s", 1.5, 0.0)]).drop(["weight"]))
    with pytest.raises(DataError, match="have no column 'weight'"):
        label(repo)


VALUES = st.sampled_from([None, 0.0, -0.0, 1.0])
ROWS = st.lists(st.tuples(st.sampled_from("abc"), VALUES, st.integers(0, 40), st.integers(0, 1)), max_size=12)
ASKED = st.lists(st.tuples(st.sampled_from("abc"), VALUES, st.integers(0, 40)), max_size=8)


def tables(rows: list[Any], asked: list[Any]) -> tuple[pa.Table, pa.Table]:
    at = [pa.array([r[2] for r in t], pa.int64()).cast(TIMESTAMP) for t in (asked, rows)]
    both = [{"k": pa.array([r[0] for r in t], pa.string()), "f": pa.array([r[1] for r in t], pa.float64())} for t in (asked, rows)]
    requests = pa.table({**both[0], "tandem_as_of": at[0]})
    spine = pa.table({**both[1], "event_timestamp": at[1], "label": pa.array([float(r[3]) for r in rows], pa.float64())})
    return requests, spine


@given(ROWS, ASKED, st.integers(0, 15))
@settings(max_examples=examples(200))
def test_match_is_what_a_loop_over_all_pairs_finds(rows: list[Any], asked: list[Any], tolerance: int) -> None:
    requests, spine = tables(rows, asked)
    found = match(requests, spine, ["k", "f"], tolerance)
    for i, (key, value, at) in enumerate(asked):
        # repr tells 0.0 from -0.0, as their bits do
        same = [(abs(t - at), y) for k, f, t, y in rows if k == key and repr(f) == repr(value) and abs(t - at) <= tolerance]
        nearest = [y for d, y in same if d == min(d for d, _ in same)]
        assert found.ambiguous[i] == (len(set(nearest)) > 1)
        assert (found.place[i] >= 0) == (len(set(nearest)) == 1)
        if found.place[i] >= 0:
            assert rows[found.place[i]][3] == nearest[0]
