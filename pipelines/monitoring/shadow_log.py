"""``tandem compare``: the log of shadow predictions, and the labels that came later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.promotion.champion_challenger import Differences, Quality, differences, join_labels, quality, slices_of, summary
from transforms.errors import DataError

__all__ = ["CompareOptions", "ShadowComparison", "run_compare"]

LEAST_LABELLED = 50
"""Labelled rows, ten of each class among them, below which nobody is said to be right."""


@dataclass(frozen=True)
class CompareOptions:
    """``since``: by the server's now. ``versions``: (served, shadow); None: the pair that was logged last. ``more_than``: from where on two
    predictions differ."""

    model: str
    since: datetime | None = None
    versions: tuple[int, int] | None = None
    more_than: float = 0.05
    slices: Sequence[str] = ()
    slice_min_rows: int = 50
    seed: int = 7


class VersionPair(TypedDict):
    """Two versions that were run on the same requests, and the rows of these."""

    served: int
    shadow: int
    rows: int


class SlicedQuality(Quality):
    """Which of two versions was right, also by slice."""

    slices: dict[str, Quality]


class Judged(TypedDict):
    """Which of two versions was right; None, and why that is not known yet, where there are too few labels."""

    right: SlicedQuality | None
    right_unknown: str | None


ShadowComparison = TypedDict(
    "ShadowComparison",
    {
        "model": str,
        "served": int,
        "shadow": int,
        "from": str,
        "to": str,
        "requests": int,
        "without_a_number": int,
        "differences": Differences,
        "slices": dict[str, Differences],
        "right": SlicedQuality | None,
        "right_unknown": str | None,
        "pairs": list[VersionPair],
    },
)
"""How two versions differ on the requests between ``from`` and ``to``; JSON-able. ``pairs``: all that the log has."""


def run_compare(data: Path, folder: Path, options: CompareOptions, say: Callable[[str], None] = lambda line: None) -> ShadowComparison:
    """How champion and challenger differ on the requests that both were run on, and which was right where labels are in. ``folder`` is that
    of the request log. Raises DataError, one line, if there is nothing to compare."""
    from serving.request_log import read_requests

    table = read_requests(folder / "shadow")
    if "tandem_shadow_version" in table.column_names:
        table = table.filter(pc.equal(table.column("tandem_model"), options.model))
        if options.since is not None:
            moment = pa.scalar(options.since, table.column("tandem_as_of").type)
            table = table.filter(pc.greater_equal(table.column("tandem_as_of"), moment))
    if not table.num_rows or "tandem_shadow_version" not in table.column_names:
        then = f" since {options.since:%Y-%m-%d %H:%M}Z" if options.since is not None else ""
        raise DataError(
            f"model {options.model!r}: no shadow predictions in {folder / 'shadow'}{then}; they are logged while a challenger is "
            "served beside the champion (serve.shadow), a minute after a request at the latest"
        )
    pairs = _pairs(table)
    served, shadow = options.versions or (pairs[-1]["served"], pairs[-1]["shadow"])
    mine = table.filter(
        pc.and_(pc.equal(table.column("tandem_version"), served), pc.equal(table.column("tandem_shadow_version"), shadow))
    ).combine_chunks()
    if not mine.num_rows:
        known = "; ".join(f"{p['served']} and {p['shadow']} ({p['rows']:,} rows)" for p in pairs)
        raise DataError(f"model {options.model!r}: versions {served} and {shadow} were not run on the same requests; there is {known}")
    one, other = (mine.column(n).to_numpy() for n in ("tandem_prediction", "tandem_shadow_prediction"))
    if one.dtype == object or other.dtype == object:
        raise DataError(f"model {options.model!r} gives several numbers per row; only one can be compared")
    good = np.isfinite(one) & np.isfinite(other)
    if not good.any():
        raise DataError(f"model {options.model!r}: none of {mine.num_rows:,} rows has a number from both versions {served} and {shadow}")
    mine, one, other = mine.filter(pa.array(good)), one[good], other[good]
    at = mine.column("tandem_at")
    say(f"{mine.num_rows:,} rows of versions {served} (served) and {shadow} (shadow)")
    judged = _judged(data, options, mine)
    return {
        "model": options.model,
        "served": served,
        "shadow": shadow,
        "from": pc.min(at).as_py().isoformat(),
        "to": pc.max(at).as_py().isoformat(),
        "requests": pc.count_distinct(mine.column("tandem_request")).as_py(),
        "without_a_number": int((~good).sum()),
        "differences": differences(one, other, options.more_than),
        "slices": summary(slices_of(mine, options.slices, options.slice_min_rows), one, other, options.more_than),
        "right": judged["right"],
        "right_unknown": judged["right_unknown"],
        "pairs": pairs,
    }


def _pairs(table: pa.Table) -> list[VersionPair]:
    """The pairs of versions in the log, the one logged last at the end."""
    grouped = table.group_by(["tandem_version", "tandem_shadow_version"]).aggregate([("tandem_at", "max"), ("tandem_at", "count")])
    rows = sorted(grouped.to_pylist(), key=lambda r: r["tandem_at_max"])
    return [{"served": r["tandem_version"], "shadow": r["tandem_shadow_version"], "rows": r["tandem_at_count"]} for r in rows]


def _judged(data: Path, options: CompareOptions, mine: pa.Table) -> Judged:
    """Who was right, or one line that says why that is not known yet."""
    from pipelines.monitoring.labels import read_labels

    labels = read_labels(data, options.model)
    if not labels.num_rows:
        return {"right": None, "right_unknown": "no labels are in yet; 'tandem labels' joins what happened later"}
    rows, label = join_labels(mine, labels)
    least = int(min(label.sum(), len(label) - label.sum())) if len(label) else 0
    if len(label) < LEAST_LABELLED or least < 10:
        why = f"{len(label):,} of {mine.num_rows:,} rows have a label, {least:,} of the rarer class; {LEAST_LABELLED} and 10 are needed"
        return {"right": None, "right_unknown": why}
    one, other = (rows.column(n).to_numpy() for n in ("tandem_prediction", "tandem_shadow_prediction"))
    parts = {
        key: quality(label[mask], one[mask], other[mask], options.seed)
        for key, mask in slices_of(rows, options.slices, max(LEAST_LABELLED, options.slice_min_rows)).items()
        if 10 <= label[mask].sum() <= mask.sum() - 10
    }
    return {"right": {**quality(label, one, other, options.seed), "slices": parts}, "right_unknown": None}
