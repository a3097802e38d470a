"""What a model was trained on, as something to compare answers with; and how much windows of it differ among themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.monitoring.log_windows import Window, blocks
from pipelines.monitoring.statistics import Ranges, distances, statistics, thinned
from pipelines.training.training_set_record import TrainingSetRecord
from serving.models import ModelSpec, load_model
from transforms.definitions import EVENT_TIMESTAMP
from transforms.errors import DataError

__all__ = ["PREDICTION", "ROWS", "Baseline", "Chance", "chance", "load_baseline"]

Int = npt.NDArray[np.int64]
PREDICTION = "tandem_prediction"
ROWS = 20_000
"""Rows that statistics are made of; more change no distance."""
KEPT = 100_000
BLOCKS = 14
FEWEST = 3


@dataclass(frozen=True)
class Baseline:
    """A model version's training set: ``table`` in order of time (raw inputs, entity keys, label, ``tandem_prediction``, ``split``)."""

    spec: ModelSpec
    id: str
    label: str
    table: pa.Table

    @property
    def at(self) -> Int:
        """The moments of its rows, microseconds."""
        out: Int = self.table.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy()
        return out

    def of(self, *splits: str) -> pa.Table:
        """The rows of some splits."""
        return self.table.filter(pc.is_in(self.table.column("split"), pa.array(splits)))


def load_spec(data: Path, model: str, version: int) -> ModelSpec:
    """``tandem.json`` of a model version. Raises DataError where it is gone."""
    path = layout.model(data, model) / str(version) / layout.SPEC_FILE
    try:
        return ModelSpec.parse(path.read_bytes(), str(path))
    except OSError:
        raise DataError(f"model {model!r} version {version} is not below {data / 'models'}; its answers cannot be compared") from None


def load_baseline(data: Path, spec: ModelSpec) -> Baseline:
    """The training set of a version, with the version's own predictions. Raises DataError where it is gone."""
    identity = str(spec.raw.get("training_set", ""))
    folder = layout.training_set(data, identity)
    record = TrainingSetRecord.load(folder)
    if record is None:
        raise DataError(f"training set {identity or '(none named)'} of {spec.name!r} version {spec.version} is not below {folder.parent}")
    parts = []
    for split in ("train", "eval", "test"):
        table = pa.concat_tables([pq.read_table(f) for f in sorted((folder / split).glob("*.parquet"))])
        table = thinned(table, KEPT)
        parts.append(table.append_column("split", pa.array([split] * table.num_rows, pa.string())))
    table = pa.concat_tables(parts).combine_chunks()
    table = table.take(pa.array(np.argsort(table.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy(), kind="stable")))
    predictions = _predict(layout.model(data, spec.name) / str(spec.version), table, spec)
    if predictions is not None:
        table = table.append_column(PREDICTION, pa.array(predictions))
    return Baseline(spec, identity, record.label, table)


def _predict(path: Path, table: pa.Table, spec: ModelSpec) -> npt.NDArray[np.float64] | None:
    """The version's predictions, or None for a model with several outputs per row. Raises ModelError."""
    model = load_model(path, spec)
    parts = [model.predict(table.slice(i, 8192)) for i in range(0, table.num_rows, 8192)]
    whole = np.concatenate(parts) if parts else np.zeros(0)
    return whole.astype(np.float64) if whole.ndim == 1 else None


@dataclass(frozen=True)
class Chance:
    """How much windows of the training set differ: from the rest of it (``skew``), and from the window before (``drift``), at most.
    ``windows``: how many were looked at; 0: the set is too short, so random samples were, and that is less than nature does."""

    windows: int
    skew: Mapping[str, float]
    drift: Mapping[str, float]
    found: Sequence[Mapping[str, float]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Where the numbers come from."""
        if self.windows:
            return f"{self.windows} windows of that length within the training set"
        return "random samples: the training set is too short for windows of that length"


def chance(
    base: Baseline,
    window: Window,
    rows: int,
    names: Sequence[str],
    held: Ranges,
    cache: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Chance:
    """Measure it, for windows like ``window`` with about ``rows`` rows; what was measured once is kept in the folder ``cache``."""
    size = int(2 ** (round(2 * np.log2(max(rows, 1))) / 2))  # windows of about this size share a measurement
    size = min(size, ROWS)
    phase = window.start % 86_400_000_000
    words = [3, base.id, base.spec.name, base.spec.version, window.length, phase, size, list(names), BLOCKS]
    path = cache / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:20]}.json"
    try:
        known = json.loads(path.read_text("utf-8"))
        return Chance(known["windows"], known["skew"], known["drift"], known["found"])
    except (OSError, ValueError, KeyError):
        pass
    say(f"measuring how much windows of the training set differ among themselves ({size:,} rows each)")
    made = _measure(base, window, size, names, held)
    cache.mkdir(parents=True, exist_ok=True)
    write_json(path, {"windows": made.windows, "skew": dict(made.skew), "drift": dict(made.drift), "found": list(made.found)})
    return made


def _measure(base: Baseline, window: Window, size: int, names: Sequence[str], held: Ranges) -> Chance:
    at, table = base.at, base.table
    found = blocks(at, window, BLOCKS, max(size // 4, 20))

    def made(mask: npt.NDArray[np.bool_], rows: int) -> Any:
        return statistics(thinned(table.filter(pa.array(mask)), rows), names, held)

    skew: list[dict[str, float]] = []
    drift: list[dict[str, float]] = []
    if len(found) >= FEWEST:
        for one, mask in found:
            mine = made(mask, size)
            skew.append(distances(made(~mask, ROWS), mine, names, held))
            before = one.before.mask(at)
            if before.sum() >= max(size // 4, 20):
                drift.append(distances(made(before, size), mine, names, held))
    else:
        rng = np.random.default_rng(0)
        for _ in range(5):
            chosen = np.zeros(len(at), np.bool_)
            chosen[rng.choice(len(at), min(size, len(at) // 2), replace=False)] = True
            rest = ~chosen
            skew.append(distances(made(rest, ROWS), made(chosen, size), names, held))
        drift = skew
    return Chance(len(found) if len(found) >= FEWEST else 0, _most(skew, names), _most(drift, names), skew)


def _most(found: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    return {n: max((f[n] for f in found if n in f), default=0.0) for n in names}
