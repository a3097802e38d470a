"""The training set: split by time, point-in-time join, one fingerprint per view, versions by content."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.definition import Model, Threshold
from pipelines.training.training_set import SPLITS, build_training_set, split_by_time
from pipelines.training.user_code import load_function
from tests.integration import training_repo
from transforms.definitions import Field
from transforms.errors import ConfigError, DataError, DefinitionError, FingerprintError

NOW = datetime(2024, 6, 1, tzinfo=UTC)


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=300),
    st.floats(0.05, 0.6),
    st.floats(0.05, 0.35),
    st.integers(0, 10),
)
def test_splits_follow_each_other_in_time(times: list[int], first: float, more: float, delay: int) -> None:
    us = np.array(times, np.int64)
    try:
        masks, (t1, t2) = split_by_time(us, (first, first + more), delay)
    except DataError:
        return
    assert us[masks["train"]].max() + delay < t1 <= us[masks["eval"]].min()
    assert us[masks["eval"]].max() + delay < t2 <= us[masks["test"]].min()
    total = np.sum(list(masks.values()), axis=0)
    assert total.max() <= 1
    if not delay:
        assert total.min() == 1


def test_split_at_moments() -> None:
    moments = (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    us = np.array([int(datetime(2024, 1, d, tzinfo=UTC).timestamp()) * 1_000_000 for d in (1, 2, 3)])
    masks, _ = split_by_time(us, moments)
    assert [masks[s].tolist() for s in SPLITS] == [[True, False, False], [False, True, False], [False, False, True]]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return training_repo.make(tmp_path_factory.mktemp("parcels"), rows=600)


def build(repo: tuple[Path, Path], spine: pa.Table | None = None, **changes: object):
    from feast import FeatureStore

    folder, data = repo
    model = load_function(folder, "labels:model")(**changes)
    if spine is None:
        spine = load_function(folder, model.spine)(data, training_repo.START, training_repo.END)
    return build_training_set(model, spine, FeatureStore(repo_path=str(folder)), data, NOW)


def test_every_request_has_the_newest_row_not_after_it(repo: tuple[Path, Path]) -> None:
    built = build(repo)
    requests = pq.read_table(repo[1] / "events" / "requests.parquet")
    features = pq.read_table(repo[1] / "offline" / "depot_load" / "part-0.parquet").to_pylist()
    rows = [row for split in SPLITS for row in built.read(split).to_pylist()]
    assert len(rows) == requests.num_rows
    assert [r["event_timestamp"] for r in rows] == sorted(r["event_timestamp"] for r in rows)
    absent = 0
    for row in rows:
        known = [f for f in features if f["depot"] == row["depot"] and f["event_timestamp"] <= row["event_timestamp"]]
        newest = max(known, key=lambda f: f["event_timestamp"])
        if (row["event_timestamp"] - newest["event_timestamp"]).total_seconds() > 3 * 3600:
            newest, absent = {"waiting_1h": None, "mean_age_1h": None, "last_kind": None}, absent + 1
        for name in ("waiting_1h", "mean_age_1h", "last_kind"):
            assert row[f"depot_load__{name}"] == newest[name]
    assert absent > 0


def test_the_same_content_is_the_same_set_and_other_content_another(repo: tuple[Path, Path]) -> None:
    first = build(repo)
    files = {p: p.read_bytes() for p in first.path.rglob("*.*")}
    again = build(repo)
    assert again.id == first.id
    assert {p: p.read_bytes() for p in again.path.rglob("*.*")} == files
    spine = pq.read_table(repo[1] / "events" / "requests.parquet")
    assert build(repo, spine.slice(0, 500)).id != first.id
    assert build(repo, split=(0.5, 0.8)).id != first.id
    assert build(repo, features=["depot_load:waiting_1h"]).id != first.id
    assert not list((repo[1] / "training").glob(".*"))


def test_rows_of_two_graphs_are_refused(tmp_path: Path) -> None:
    repo = training_repo.make(tmp_path, rows=100)
    training_repo.write_features(repo[1] / "offline" / "depot_load" / "part-0.parquet", 3, ("a" * 64, "b" * 64))
    with pytest.raises(FingerprintError, match="rows of 2 fingerprints"):
        build(repo)


def test_unusable_spines_are_one_line(repo: tuple[Path, Path]) -> None:
    good = pq.read_table(repo[1] / "events" / "requests.parquet")
    nulls = pa.array([None] * good.num_rows, pa.string())
    cases = [
        (good.drop(["size"]), "lacks the column size"),
        (good.slice(0, 0), "no labelled requests"),
        (good.set_column(good.column_names.index("depot"), "depot", nulls), "600 nulls in 'depot'"),
        (good.set_column(good.column_names.index("slow"), "slow", pa.array([2] * 600)), "must be 0 or 1"),
    ]
    for spine, message in cases:
        with pytest.raises(DataError, match=message) as error:
            build(repo, spine)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no feature service 'nothing'"):
        build(repo, features="nothing")


def test_a_missing_function_is_named(repo: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="no module 'nothing'"):
        load_function(repo[0], "nothing:here")
    with pytest.raises(ConfigError, match="no function 'here'"):
        load_function(repo[0], "labels:here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Late"}, "lower-case"),
        ({"spine": "labels"}, "module:function"),
        ({"features": ["a.b"]}, "view:feature"),
        ({"split": (0.9, 0.8)}, "rising"),
        ({"slices": ["colour"]}, "is not a request field"),
        ({"thresholds": []}, "nothing is ever pushed"),
        ({"request_fields": [Field("size", "timestamp")]}, "must be a Field"),
    ],
)
def test_mistakes_in_a_model_are_named(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {
        "name": "late",
        "spine": "labels:spine",
        "label": "late",
        "entity_keys": ["depot"],
        "request_fields": [Field("size", "string")],
        "features": ["v:f"],
    }
    with pytest.raises(DefinitionError, match=message):
        Model(**{**values, **changes})  # type: ignore[arg-type]


def test_a_threshold_demands_something() -> None:
    with pytest.raises(DefinitionError, match="has no condition"):
        Threshold("auc")
