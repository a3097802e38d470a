"""Whether an artifact that was made again is the one of then: identical bytes, equal within a tolerance, or different."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipelines.lake import layout
from pipelines.lake.data_files import sha256
from pipelines.lake.run_records import RunRecord

__all__ = [
    "TOLERANCE", "Artifact", "ArtifactDict", "Verdict", "files_of", "same_files", "same_predictions", "same_scores", "same_tables",
    "same_weights", "worst",
]  # fmt: skip

Verdict = Literal["identical", "equal", "different"]
TOLERANCE = 1e-6
"""How far a probability, or a score of it, may be off to count as equal: float32 has seven digits, and sums over threads may be ordered
differently."""
WEIGHTS = 1e-5
"""The same for a weight, which many steps of training have summed up."""


class ArtifactDict(TypedDict):
    """An :class:`Artifact` for machines."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Artifact:
    """One artifact and what became of it."""

    name: str
    verdict: Verdict
    detail: str

    def to_dict(self) -> ArtifactDict:
        """For machines."""
        return {"name": self.name, "verdict": self.verdict, "detail": self.detail}


def worst(artifacts: Iterable[Artifact]) -> Verdict:
    """The verdict of all: different if any is, else equal if any is, else identical."""
    found = {a.verdict for a in artifacts}
    return "different" if "different" in found else "equal" if "equal" in found else "identical"


def same_files(name: str, then: Mapping[str, Mapping[str, Any]], folder: Path) -> Artifact:
    """Compare files (relative name -> {bytes, sha256}) with those below ``folder``, byte by byte."""
    now = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    missing = [n for n in then if n not in now]
    other = [n for n in then if n in now and (now[n].stat().st_size != then[n]["bytes"] or sha256(now[n]) != then[n]["sha256"])]
    if missing or other or not then:
        parts = [f"{len(other):,} of {len(then):,} files have other bytes ({other[0]})"] if other else []
        parts += [f"{len(missing):,} files were not made ({missing[0]})"] if missing else []
        return Artifact(name, "different", "; ".join(parts) or "nothing was recorded for comparison")
    total = sum(int(o["bytes"]) for o in then.values())
    return Artifact(name, "identical", f"{len(then):,} files, {total:,} bytes, all identical")


def files_of(run: RunRecord, data: Path, run_id: str, group: str) -> dict[str, dict[str, Any]]:
    """The files of a group that a batch run made: as recorded, else (an older manifest) as they lie there."""
    prefix = f"offline/{group}/"
    found: dict[str, dict[str, Any]] = {o["name"].removeprefix(prefix): {**o} for o in run.outputs if o["name"].startswith(prefix)}
    if found:
        return found
    folder = layout.offline_run(data, group, run_id)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}


def _read(folder: Path) -> pa.Table:
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        return pa.table({})
    schema = pa.unify_schemas([pq.read_schema(f) for f in files])  # a column without a value has no type in some files
    return ds.dataset([str(f) for f in files], schema=schema, format="parquet").to_table()


def same_tables(then: Path, now: Path, sort: bool = False) -> str:
    """One line about how the rows of two folders of Parquet differ: in number, or which columns in how many rows."""
    a, b = _read(then), _read(now)
    if sorted(a.column_names) != sorted(b.column_names):
        gone, new = sorted(set(a.column_names) - set(b.column_names)), sorted(set(b.column_names) - set(a.column_names))
        parts = [f"without {', '.join(gone)}"] if gone else []
        return f"the columns differ: {' and '.join([*parts, *([f'with {chr(44).join(new)}'] if new else [])])}"
    if a.num_rows != b.num_rows:
        return f"{a.num_rows:,} rows then, {b.num_rows:,} now"
    b = b.select(a.column_names)
    if sort:
        keys = [(n, "ascending") for n, c in zip(a.column_names, a.columns, strict=True) if not pa.types.is_nested(c.type)]
        a, b = a.sort_by(keys), b.sort_by(keys)
    counts = {name: _differing(a.column(name), b.column(name)) for name in a.column_names}
    found = sorted(((n, name) for name, n in counts.items() if n), reverse=True)
    if not found:
        return "all values are equal"
    some = ", ".join(f"{name} in {n:,}" for n, name in found[:4])
    return f"of {a.num_rows:,} rows {some}{f' and {len(found) - 4} more columns' if len(found) > 4 else ''} differ"


def _differing(a: Any, b: Any) -> int:
    if a.type != b.type:
        return len(a)
    if pa.types.is_nested(a.type):
        return sum(x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True))
    if pa.types.is_floating(a.type):  # NaN is NaN
        x, y = (np.asarray(c.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)) for c in (a, b))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        return int((~same | (np.asarray(pc.is_null(a)) != np.asarray(pc.is_null(b)))).sum())
    equal = pc.fill_null(pc.equal(a, b), False)
    both_null = pc.and_(pc.is_null(a), pc.is_null(b))
    return len(a) - int(pc.sum(pc.or_(equal, both_null)).as_py() or 0)


def same_predictions(name: str, then: Any, now: Any) -> Artifact:
    """Compare probabilities of shape [n]; ``then`` None: the model of then is gone."""
    if then is None:
        return Artifact(name, "equal", "the original model no longer exists; its scores are compared instead")
    if np.array_equal(then, now):
        return Artifact(name, "identical", f"{len(now):,} probabilities, bit by bit")
    off = float(np.max(np.abs(np.asarray(then, np.float64) - np.asarray(now, np.float64))))
    if off <= TOLERANCE:
        return Artifact(
            name, "equal", f"{len(now):,} probabilities, at most {off:.1e} off; tolerance {TOLERANCE:g}: the order of sums over threads"
        )
    return Artifact(name, "different", f"probabilities are up to {off:.3g} off; tolerance {TOLERANCE:g}")


def same_weights(name: str, then: Mapping[str, Mapping[str, Any]], before: Path | None, folder: Path) -> Artifact:
    """Compare the weights of two SavedModels: the files of ``variables/`` byte by byte, else (``before`` given) by variable."""
    files = same_files(name, {n: o for n, o in then.items() if n.startswith("variables/")}, folder)
    if files.verdict == "identical" or before is None:
        return files
    import tensorflow as tf

    a, b = (tf.train.load_checkpoint(str(f / "variables" / "variables")) for f in (before, folder))
    names = {n for n in a.get_variable_to_shape_map() if not n.startswith("_CHECKPOINTABLE")}
    if names != {n for n in b.get_variable_to_shape_map() if not n.startswith("_CHECKPOINTABLE")}:
        return Artifact(name, "different", "the network has other variables")
    off, count = 0.0, 0
    for n in sorted(names):
        x, y = np.asarray(a.get_tensor(n)), np.asarray(b.get_tensor(n))
        if x.shape != y.shape:
            return Artifact(name, "different", f"variable {n} has shape {x.shape} then, {y.shape} now")
        count += x.size
        if x.dtype.kind == "f" and x.size:
            off = max(off, float(np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)))))
        elif not np.array_equal(x, y):
            off = float("inf")
    if off == 0:
        return Artifact(name, "equal", f"{count:,} numbers, bit by bit (tolerance 0); the files' own bookkeeping differs")
    if off <= WEIGHTS:
        return Artifact(name, "equal", f"{count:,} numbers, at most {off:.1e} off; tolerance {WEIGHTS:g}: the order of sums over threads")
    return Artifact(name, "different", f"weights are up to {off:.3g} off; tolerance {WEIGHTS:g}")


def same_scores(name: str, then: Mapping[str, float], now: Mapping[str, float]) -> Artifact:
    """Compare metrics by name."""
    both = [n for n in then if n in now]
    off = {n: abs(then[n] - now[n]) for n in both if then[n] != now[n]}
    missing = [n for n in then if n not in now]
    if missing:
        return Artifact(name, "different", f"{len(missing)} of {len(then)} scores are not there now ({missing[0]})")
    if not off:
        return Artifact(name, "identical", f"{len(both)} scores, to the last digit")
    worst_name = max(off, key=lambda n: off[n])
    told = f"{worst_name} {then[worst_name]:.6f} then, {now[worst_name]:.6f} now"
    if off[worst_name] <= TOLERANCE:
        return Artifact(name, "equal", f"{len(both)} scores, at most {off[worst_name]:.1e} off; tolerance {TOLERANCE:g}")
    return Artifact(name, "different", f"{len(off)} of {len(both)} scores differ, most of all {told}")
