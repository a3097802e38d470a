"""``tandem labels``: what happened later, beside the requests that were answered.

A model's own spine function says which request had which label. A logged request (``predict``, ``infer``) belongs to the spine row with
the same entity keys and request fields (equal to the bit, null to null) that is nearest in time, and at most ``tolerance`` away: the
request may have been asked at another moment (``tandem_as_of``) than the spine has it (``event_timestamp``). Where two rows of different
labels are equally near, the request is *ambiguous* and gets none; where no row is near enough it is *unmatched*; where the label is not
known yet (``event_timestamp + label_delay`` lies after ``now``) it is *waiting*. All of them are counted.

Files ``<data>/labels/<model>/part-NNNNNN.parquet``, columns:

====================  ==================  ===========================================================================================
tandem_request        string              as in the request log, and so are the next three; (request, row, at) names an answer
tandem_row            int32               (a caller may repeat a request id)
tandem_at             timestamp us, UTC
tandem_as_of          timestamp us, UTC
label                 double              0 or 1
event_timestamp       timestamp us, UTC   the moment of the spine row
label_time            timestamp us, UTC   from when on the label is known: ``event_timestamp + label_delay``
====================  ==================  ===========================================================================================

A file is complete once it is visible, and never changed. Labelling again adds a file with what is new or has changed since; a later file
wins over an earlier one. Nothing new: no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import layout, shared
from pipelines.lake.data_files import replaced
from pipelines.lake.row_compare import common_codes, locate, table_of
from pipelines.monitoring.monitor_report import LabelCounts
from pipelines.project.repository import Repo
from pipelines.training.definition import Model
from pipelines.training.training_set import check_spine
from pipelines.training.user_code import ask_spine
from serving.request_log import read_requests
from transforms.columns import column_us
from transforms.definitions import EVENT_TIMESTAMP, TIMESTAMP, micros
from transforms.errors import DataError
from transforms.instants import instant, micros_of

__all__ = ["KEYS", "LABELS", "Labelled", "Matched", "answers_of", "label_requests", "match", "read_labels", "request_log"]

Int = npt.NDArray[np.int64]
KEYS = ("tandem_request", "tandem_row", "tandem_at")
"""What names an answer in the request log."""
LABELS = pa.schema(
    [
        ("tandem_request", pa.string()),
        ("tandem_row", pa.int32()),
        ("tandem_at", TIMESTAMP),
        ("tandem_as_of", TIMESTAMP),
        ("label", pa.float64()),
        (EVENT_TIMESTAMP, TIMESTAMP),
        ("label_time", TIMESTAMP),
    ]
)


@dataclass(frozen=True)
class Labelled:
    """The outcome for one model: how many answers, and of these how many are ``labelled`` (``added`` and ``corrected`` just now),
    ``waiting``, ``ambiguous``, ``unmatched``; ``file``: what was written, relative to the data folder, or None."""

    model: str
    answers: int
    labelled: int
    added: int
    corrected: int
    waiting: int
    ambiguous: int
    unmatched: int
    tolerance_hours: float
    file: str | None

    def to_dict(self) -> LabelCounts:
        """A JSON-able form."""
        return {
            "model": self.model, "answers": self.answers, "labelled": self.labelled, "added": self.added, "corrected": self.corrected,
            "waiting": self.waiting, "ambiguous": self.ambiguous, "unmatched": self.unmatched, "tolerance_hours": self.tolerance_hours,
            "file": self.file,
        }  # fmt: skip


@dataclass(frozen=True)
class Matched:
    """For each of N requests: the place of its row among the spine's (int64 [N], -1: none), and which are ambiguous (bool [N])."""

    place: Int
    ambiguous: npt.NDArray[np.bool_]


def request_log(repo: Repo) -> Path:
    """The folder of the request log."""
    return repo.settings.request_log(repo.path) or layout.requests(repo.data)


def answers_of(log: pa.Table, model: str) -> pa.Table:
    """The rows of a request log that are answers of the model."""
    mine = pc.and_(pc.equal(log.column("tandem_model"), model), pc.is_in(log.column("tandem_endpoint"), pa.array(["predict", "infer"])))
    return log.filter(pc.fill_null(mine, False))


def match(requests: pa.Table, spine: pa.Table, names: list[str], tolerance_us: int) -> Matched:
    """The nearest spine row of each request (``tandem_as_of``; spine: ``event_timestamp``, ``label``) that is equal in ``names``.

    Of two that are equally near the earlier one; ambiguous where their labels differ.
    """
    n = requests.num_rows
    if not spine.num_rows or not n:
        return Matched(np.full(n, -1, np.int64), np.zeros(n, np.bool_))
    mine, theirs = common_codes([table_of(requests.select(names)), table_of(spine.select(names))], names)
    asked, known = column_us(requests, "tandem_as_of"), column_us(spine, EVENT_TIMESTAMP)
    label = spine.column("label").to_numpy()
    instants, rank = np.unique(np.concatenate([known, asked]), return_inverse=True)
    room = len(instants) + 1
    order = np.lexsort((known, theirs))
    name = theirs[order] * room + rank[: len(known)][order]
    # Rows of one name: the first stands for all of them, if they agree.
    unique, first, which = np.unique(name, return_index=True, return_inverse=True)
    least, most = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
    np.minimum.at(least, which.reshape(-1), label[order])
    np.maximum.at(most, which.reshape(-1), label[order])
    at = mine * room + rank[len(known) :]
    before = np.searchsorted(unique, at, side="right") - 1
    after = before + 1

    def distance(place: Int) -> Int:
        inside = (place >= 0) & (place < len(unique))
        row = order[first[np.clip(place, 0, len(unique) - 1)]]
        out: Int = np.where(inside & (theirs[row] == mine), np.abs(known[row] - asked), _FAR)
        return out

    back, ahead = distance(before), distance(after)
    chosen = np.where(back <= ahead, before, after)
    near = np.minimum(back, ahead) <= tolerance_us
    inside = np.clip(chosen, 0, len(unique) - 1)
    odd = least[inside] != most[inside]
    tie = (back == ahead) & near
    other = np.clip(after, 0, len(unique) - 1)
    odd |= tie & ((least[other] != least[inside]) | (most[other] != most[inside]))
    good = near & ~odd
    return Matched(np.where(good, order[first[inside]], -1), near & odd)


_FAR = 2**62


def label_requests(
    repo: Repo,
    model: Model,
    now: datetime,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    tolerance: timedelta | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Labelled:
    """Label the answers of ``model`` whose ``tandem_as_of`` lies in [since, until) as far as labels are known at ``now``.

    Raises DataError for a request log, a label file or a spine that cannot be used, ConfigError for a missing function.
    """
    reach = timedelta(hours=repo.settings.monitor.label_tolerance_hours) if tolerance is None else tolerance
    requests = answers_of(read_requests(request_log(repo)), model.name)
    requests = requests.filter(pa.array(_within(column_us(requests, "tandem_as_of"), since, until)))
    hours = reach.total_seconds() / 3600
    if not requests.num_rows:
        return Labelled(model.name, 0, 0, 0, 0, 0, 0, 0, hours, None)
    asked = column_us(requests, "tandem_as_of")
    start, end = (instant(int(t)) for t in (asked.min() - micros(reach), asked.max() + micros(reach) + 1))
    span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
    say(f"{model.name}: {requests.num_rows:,} answers; asking {model.spine} for the requests of {span}")
    spine = _spine(repo, model, start, end)
    names = list(dict.fromkeys([*model.entity_keys, *(f.name for f in model.request_fields)]))
    requests = _typed(requests, names, spine, model)
    found = match(requests, spine, names, micros(reach))
    at = np.where(found.place >= 0, column_us(spine, EVENT_TIMESTAMP)[found.place] if spine.num_rows else 0, 0)
    ready_at = at + micros(model.label_delay)
    ready = (found.place >= 0) & (ready_at <= micros_of(now))
    rows = pa.array(np.flatnonzero(ready))
    mine = requests.select([*KEYS, "tandem_as_of"]).take(rows)
    label = spine.column("label").take(pa.array(found.place[ready]))
    times = [pa.array(t[ready]).cast(TIMESTAMP) for t in (at, ready_at)]
    fresh = pa.Table.from_arrays([*mine.columns, label, *times], schema=LABELS)
    folder = layout.labels(repo.data, model.name)
    with shared.alone(repo.data, folder / ".lock"):
        shared.have_files(repo.data, [folder.relative_to(repo.data).as_posix()])
        added, corrected, file = _append(folder, fresh)
        shared.send_files(repo.data, [folder.relative_to(repo.data).as_posix()])
    return Labelled(
        model.name,
        requests.num_rows,
        int(ready.sum()),
        added,
        corrected,
        int(((found.place >= 0) & ~ready).sum()),
        int(found.ambiguous.sum()),
        int(((found.place < 0) & ~found.ambiguous).sum()),
        hours,
        None if file is None else file.relative_to(repo.data).as_posix(),
    )


def _within(at: Int, since: datetime | None, until: datetime | None) -> npt.NDArray[np.bool_]:
    out = np.ones(len(at), np.bool_)
    if since is not None:
        out &= at >= micros_of(since)
    if until is not None:
        out &= at < micros_of(until)
    return out


def _spine(repo: Repo, model: Model, start: datetime, end: datetime) -> pa.Table:
    """The spine in time's order, with the model's columns, the label called ``label``."""
    spine = ask_spine(repo.path, model.spine, repo.data, start, end)
    if not spine.num_rows:
        fields = [(n, spine.schema.field(n).type) for n in spine.schema.names if n not in (model.label, EVENT_TIMESTAMP)]
        return pa.schema([*fields, (EVENT_TIMESTAMP, TIMESTAMP), ("label", pa.float64())]).empty_table()
    checked = check_spine(spine, model)
    return checked.rename_columns(["label" if n == model.label else n for n in checked.schema.names])


def _typed(requests: pa.Table, names: list[str], spine: pa.Table, model: Model) -> pa.Table:
    """The requests with the spine's types in the columns that are compared. Raises DataError where one is missing."""
    for name in names:
        if name not in requests.schema.names:
            raise DataError(f"request log: answers of {model.name!r} have no column {name!r}; they are of another definition of the model")
        if name in spine.schema.names and requests.schema.field(name).type != spine.schema.field(name).type:
            index = requests.schema.get_field_index(name)
            try:
                column = requests.column(name).cast(spine.schema.field(name).type)
            except pa.ArrowInvalid as e:
                raise DataError(f"request log: column {name!r} cannot be compared with the spine's ({str(e).splitlines()[0]})") from None
            requests = requests.set_column(index, name, column)
    return requests


# --------------------------------------------------------------------------------------------------------------- files


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def read_labels(data: Path, model: str) -> pa.Table:
    """The labels of a model, one row per answer (the latest), in order of ``tandem_at``; no rows if there are none.

    Join them with the request log on :data:`KEYS`. Raises DataError for a file that cannot be read.
    """
    return _read(layout.labels(data, model))


def _read(folder: Path) -> pa.Table:
    tables = []
    for path in _files(folder):
        try:
            tables.append(pq.ParquetFile(path).read().select(LABELS.names).cast(LABELS))
        except (OSError, KeyError, pa.ArrowException) as e:
            raise DataError(
                f"labels: {path} cannot be read ({' '.join(str(e).split())[:120]}); move it elsewhere and run tandem labels again"
            ) from None
    whole = table_of(pa.concat_tables(tables)) if tables else LABELS.empty_table()
    if len(tables) > 1:  # the last of each name
        place = locate(whole, whole, KEYS)
        whole = whole.filter(pa.array(place == np.arange(whole.num_rows)))
    return whole.sort_by([(n, "ascending") for n in ("tandem_at", "tandem_request", "tandem_row")])


def _append(folder: Path, fresh: pa.Table) -> tuple[int, int, Path | None]:
    """Write what is new or different as one more file; (added, corrected, the file)."""
    known = table_of(_read(folder))
    place = locate(fresh, known, KEYS) if fresh.num_rows else np.zeros(0, np.int64)
    there = np.flatnonzero(place >= 0)
    changed = np.zeros(fresh.num_rows, np.bool_)
    for name in ("label", EVENT_TIMESTAMP, "label_time"):
        mine, theirs = fresh.column(name).take(pa.array(there)), known.column(name).take(pa.array(place[there]))
        changed[there] |= ~pc.equal(mine, theirs).to_numpy()
    added = place < 0
    if not (added | changed).any():
        return 0, 0, None
    files = _files(folder)
    number = int(files[-1].stem.removeprefix("part-")) + 1 if files else 1
    target = folder / f"part-{number:06d}.parquet"
    with replaced(target, durable=True) as sink:
        pq.write_table(fresh.filter(pa.array(added | changed)), sink, compression="zstd", coerce_timestamps="us")
    return int(added.sum()), int(changed.sum()), target
