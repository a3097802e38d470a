"""The rows that versions are judged on: held out from all of them, each with the very feature values that it was made for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.project.repository import Repo
from pipelines.training.definition import Model
from pipelines.training.training_set import check_spine, join_features
from pipelines.training.training_set_record import TrainingSetRecord
from pipelines.training.user_code import ask_spine
from serving.models import ModelSpec
from serving.projections import FeatureSet, Projection
from serving.registry_place import feast_store
from transforms.definitions import EVENT_TIMESTAMP
from transforms.errors import DataError, TandemError
from transforms.instants import instant

__all__ = ["HoldoutSet", "holdout_rows"]


@dataclass(frozen=True)
class HoldoutSet:
    """Labelled rows in order of time. ``fingerprints``: of the graphs that their features were made by. ``how`` says how they were chosen,
    ``lacking`` why a version cannot be judged on them."""

    table: pa.Table
    fingerprints: Mapping[str, str]
    how: str
    seen: Mapping[int, int] = field(default_factory=dict)
    """Rows that a version was trained (or stopped) on, where there are any."""
    unsure: tuple[int, ...] = ()
    """Versions whose training set is gone: whether they were trained on the rows is not known."""
    lacking: Mapping[int, str] = field(default_factory=dict)
    tables: Mapping[int, pa.Table] = field(default_factory=dict)
    """Per version: the same rows with the columns that it takes."""


@dataclass(frozen=True)
class _Made:
    """What the feature columns of some rows are: the graphs of the views, and what the views' names in the columns stand for."""

    fingerprints: Mapping[str, str]
    projections: Mapping[str, Projection]


@dataclass(frozen=True)
class _Set:
    """A training set on disk."""

    folder: Path
    record: TrainingSetRecord

    @property
    def test_from(self) -> int:
        """Where its test split begins, in microseconds: what came before was used to train or to stop."""
        return self.record.borders_us[1]

    @property
    def made(self) -> _Made:
        """What its feature columns are."""
        return _Made(self.record.fingerprints, FeatureSet.of((), self.record.projections).projections)

    def test(self) -> pa.Table:
        files = sorted((self.folder / "test").glob("*.parquet"))
        return pa.concat_tables([pq.ParquetFile(f).read() for f in files])


def _sets(data: Path, specs: Mapping[int, ModelSpec]) -> dict[int, _Set]:
    out = {}
    for version, spec in specs.items():
        folder = layout.training_set(data, str(spec.raw.get("training_set", "")))
        record = TrainingSetRecord.load(folder)
        if record is not None and len(record.borders_us) == 2:
            out[version] = _Set(folder, record)
    return out


def holdout_rows(
    repo: Repo, model: Model, specs: Mapping[int, ModelSpec], start: datetime | None = None, end: datetime | None = None
) -> HoldoutSet:
    """The rows to judge versions on: requests asked in [start, end), or without a range the rows of the versions' test splits that none of
    them was trained on (the newest set that leaves most of them). Raises DataError if there are none."""
    sets = _sets(repo.data, specs)
    if start is not None and end is not None:
        table, made = _range(repo, model, specs, start, end)
        how = f"requests asked from {_day(start)} to {_day(end)}"
    else:
        if not sets:
            missing = ", ".join(str(v) for v in specs)
            raise DataError(f"model {model.name!r}: the training set of version {missing} no longer exists; give --start and --end")
        table, made, how = _test_rows(sets)
    if not table.num_rows:
        raise DataError(f"model {model.name!r}: no labelled rows ({how}); give another --start and --end")
    at = table.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy()
    seen = {v: n for v, s in sets.items() if (n := int((at < s.test_from).sum()))}
    tables: dict[int, pa.Table] = {}
    lacking: dict[int, str] = {}
    for version, spec in specs.items():
        try:
            tables[version] = _for(repo, model, spec, table, made)
        except TandemError as e:
            lacking[version] = str(e)
    return HoldoutSet(table, made.fingerprints, how, seen, tuple(v for v in specs if v not in sets), lacking, tables)


def _test_rows(sets: Mapping[int, _Set]) -> tuple[pa.Table, _Made, str]:
    border = max(s.test_from for s in sets.values())
    best: tuple[int, int, pa.Table, _Set] | None = None
    for version, one in sorted(sets.items(), reverse=True):
        table = one.test()
        unseen = table.filter(pc.greater_equal(table.column(EVENT_TIMESTAMP).cast(pa.int64()), border))
        if best is None or unseen.num_rows > best[0]:
            best = (unseen.num_rows, version, unseen, one)
    assert best is not None
    rows, version, table, chosen = best
    if rows:
        names = " or ".join(str(v) for v in sorted(sets))
        how = f"test split of version {version}'s training set from {_day(border)} on, which version {names} was not trained on"
        return table, chosen.made, how
    version = max(sets)
    how = f"test split of version {version}'s training set; other versions were trained on some of it"
    return sets[version].test(), sets[version].made, how


def _range(repo: Repo, model: Model, specs: Mapping[int, ModelSpec], start: datetime, end: datetime) -> tuple[pa.Table, _Made]:
    spine = check_spine(ask_spine(repo.path, model.spine, repo.data, start, end), model)
    first = next(iter(specs.values()))
    same = [s for s in specs.values() if _same_uses(first.projections, s)]  # what others read, they get in their turn
    features = FeatureSet(tuple(dict.fromkeys(p for s in same for p in s.features)), first.projections)
    table, fingerprints = _joined(repo, model, spine, features)
    return table, _Made(fingerprints, first.projections)


def _same_uses(projections: Mapping[str, Projection], spec: ModelSpec) -> bool:
    """Whether a version means the same by the names of its views."""
    return all(projections.get(name) == spec.projections.get(name) for name in (*projections, *spec.projections))


def _joined(repo: Repo, model: Model, spine: pa.Table, features: FeatureSet) -> tuple[pa.Table, dict[str, str]]:
    """The rows with features as of each row's time, by the offline store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return join_features(feast_store(repo.path), spine, model, features)


def _for(repo: Repo, model: Model, spec: ModelSpec, table: pa.Table, made: _Made) -> pa.Table:
    """The rows with all that a version takes. What the table does not have, or has by another graph or other keys, is read as of each
    row's time."""
    what = f"version {spec.version}"
    absent = [
        (view, feature)
        for view, feature in spec.features
        if f"{view}__{feature}" not in table.column_names
        or made.projections.get(view) != spec.projections.get(view)
        or made.fingerprints.get(spec.read.projection(view).view) != spec.fingerprint(view)
    ]
    if absent:
        own = [n for n in table.column_names if n not in {f"{v}__{f}" for v, f in absent}]
        table, found = _joined(repo, model, table.select(own), spec.read.only(absent))
        for view, fingerprint in found.items():
            if spec.fingerprints.get(view) != fingerprint:
                asked = spec.fingerprints.get(view, "none")
                raise DataError(f"{what} was made for graph {asked[:12]} of {view!r}, but its rows are of {fingerprint[:12]}")
    lacking = [name for name, _ in spec.inputs if name not in table.column_names]
    if lacking:
        raise DataError(f"{what} takes {', '.join(lacking[:5])}, which the labelled requests do not have")
    return table


def _day(moment: datetime | int) -> str:
    at = moment if isinstance(moment, datetime) else instant(moment)
    return f"{at:%Y-%m-%d %H:%M}Z"


def columns_of(table: pa.Table, names: Iterable[str]) -> dict[str, list[Any]]:
    """Columns as lists, those that are there."""
    return {name: table.column(name).to_pylist() for name in names if name in table.column_names}


def label_of(table: pa.Table, model: Model) -> Any:
    """The labels, float64 of shape [n]."""
    return table.column(model.label).to_numpy().astype(np.float64)
