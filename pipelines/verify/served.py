"""What the server answered against what it should have known then: the request log, row by row, against batch rows and row log.

Every logged answer of a view names the row that it was made of (event timestamp, revision, fingerprint) and the instant by which it was
judged. It is right if the row's values are batch's, no newer row had been delivered by then, and its status follows from its age.
Otherwise one of these must hold, each by comparison with what is on record:

* **in flight**: by event time a newer row was due, or a later revision of the row had been made, but it had not been delivered yet when
  the answer was given;
* **late data**: the row was the one due, and right: the revision that corrected it was made after the answer;
* **too late**, **behind an idle partition**, **other fingerprint**: the row is as delivered, and this is why it is not batch's;
* **ahead of the clock**: the row is right, or as delivered for one of the two reasons around this one, but its event timestamp lies
  after the instant that the server judged by, so no answer of that instant could be made of it;
* **outside the run**: the row is as delivered, of a time that the batch run compared with does not have, and none that it has was due;
* **earlier stream**: the row is as a stream of the same name delivered it, before this one began anew (its log was kept): what made it
  differ from batch's was that stream's to prove.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.lake.row_compare import common_codes, locate, same, table_of
from pipelines.verify.causes import CAUSES, EARLIER, EQUAL, OTHER_FINGERPRINT, OUTSIDE, UNEXPLAINED
from pipelines.verify.proof import GroupProof
from pipelines.verify.stream_record import FAR
from serving.request_rows import view_answers
from transforms.columns import column_us
from transforms.definitions import CREATED, EVENT_TIMESTAMP, FINGERPRINT, REVISION, FeatureGroup

__all__ = ["SERVED", "ServedProof", "check_served", "due_rows", "taken"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SERVED = (*CAUSES, "late data", "ahead of the clock", OUTSIDE, EARLIER)
IN_FLIGHT, LATE_DATA, AHEAD, OTHER_TIME, OTHER_STREAM = CAUSES.index("in flight"), *range(len(CAUSES), len(SERVED))
TIMEOUT_US = 5_000_000
"""A server answers within its time limit, so an answer's rows were read no longer before it than that."""


@dataclass(frozen=True)
class ServedProof:
    """The answers of one view: how many rows and values, by cause; ``behind_s``: how far each that was in flight is behind (seconds)."""

    view: str
    answers: int
    values: int
    causes: dict[str, int]
    statuses: dict[str, int]
    lines: list[str] = field(default_factory=list)
    behind_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def unexplained(self) -> int:
        """Answers that nothing explains."""
        return self.causes.get(CAUSES[UNEXPLAINED], 0)


def check_served(
    log: pa.Table,
    proof: GroupProof,
    delivered: pa.Table,
    readable: Int,
    history: pa.Table | None,
    timeout_us: int = TIMEOUT_US,
    span: tuple[int, int] | None = None,
    earlier: Callable[[], Iterable[pa.Table]] = tuple,
) -> ServedProof | None:
    """Judge every logged answer of the group's view; None if there is none. ``readable``: for each delivered row when the online store had
    it for sure; ``history``: rows of the batch run that came before; ``span``: batch has the rows with first < boundary <= last (None: of
    all that the stream delivered); ``earlier``: rows that each earlier stream of the name delivered, asked for only where they matter."""
    group, name = proof.group, proof.group.name
    found_answers = view_answers(log, name, group.entity.keys)
    if found_answers is None:
        return None
    log, status_column = table_of(found_answers), f"{name}__tandem_status"
    keys = tuple(group.entity.keys)
    asked = _asked(log, group)
    truth, row_cause = _truth(proof, history)
    features = [n.removeprefix(f"{name}__") for n in log.schema.names if n.startswith(f"{name}__") and f"{n}__status" in log.schema.names]
    features = [f for f in features if f in truth.schema.names]
    status = np.array(log.column(status_column).to_pylist(), dtype=object)
    found = status != "NOT_FOUND"
    as_of, at = column_us(log, "tandem_as_of"), column_us(log, "tandem_at")
    stamp, revision = _filled(asked, EVENT_TIMESTAMP), _filled(asked, REVISION)

    cause = np.full(log.num_rows, UNEXPLAINED, np.int64)
    why = np.array(["its row was never delivered, and batch has none like it"] * log.num_rows, dtype=object)
    place = locate(asked, truth, (*keys, EVENT_TIMESTAMP))
    place[~found] = -1
    right = (place >= 0) & _alike(log, name, features, place, truth, status) & _revision(truth, place, revision)
    cause[right] = EQUAL
    copy = locate(asked, table_of(delivered), (*keys, EVENT_TIMESTAMP, REVISION))
    copy[~found] = -1
    delivered_so = ~right & (copy >= 0) & _alike(log, name, features, copy, delivered, status)
    newest = locate(asked, proof.newest.rows, (*keys, EVENT_TIMESTAMP))
    newest_revision = taken(proof.newest.rows, REVISION, newest)
    corrected = delivered_so & (newest >= 0) & (newest_revision > revision)
    cause[corrected] = np.where(_corrected_at(asked, revision, delivered, keys)[corrected] > at[corrected], LATE_DATA, IN_FLIGHT)
    rest = delivered_so & ~corrected
    cause[rest] = np.where(place[rest] >= 0, row_cause[place[rest]], UNEXPLAINED)
    why[rest] = "its row is as delivered, and not as batch has it"
    # Delivered after the checkpoints that batch was made up to.
    cause[rest & ((newest < 0) | (revision > newest_revision))] = IN_FLIGHT
    if span is not None:
        boundary = stamp - group.delay_us
        cause[rest & (place < 0) & ((boundary <= span[0]) | (boundary > span[1]))] = OTHER_TIME
    known = delivered_so | right
    if (open_ := found & ~known).any():
        for rows in earlier():
            open_ &= ~known
            copy = np.where(open_, locate(asked, table_of(rows), (*keys, EVENT_TIMESTAMP, REVISION)), -1)
            theirs = _alike(log, name, features, copy, rows, status)
            cause[theirs] = OTHER_STREAM
            known |= theirs
    other = found & _other_graph(log, name, proof.fingerprint)
    cause[other & known] = OTHER_FINGERPRINT

    # The row must be the newest that had been delivered, and none may be due that was.
    stale = _stale(asked, np.where(found, stamp, -1), np.where(found, revision, -1), delivered, readable, at - timeout_us, keys)
    cause[stale] = UNEXPLAINED
    why[stale] = "a newer row had been delivered before"
    due = due_rows(asked, truth, as_of, keys)
    behind = (due >= 0) & (due > np.where(found, stamp, -1)) & ~stale & (np.isin(cause, (EQUAL, LATE_DATA, OTHER_TIME)) | ~found)
    cause[~found & ~stale] = EQUAL
    cause[behind] = IN_FLIGHT
    cause[found & (stamp > as_of) & np.isin(cause, (EQUAL, LATE_DATA, OTHER_TIME))] = AHEAD
    ttl = group.ttl_us if group.ttl_us is not None else 2**62
    wrong = found & (((as_of - stamp > ttl) & (revision != 0)) != (status == "OUTSIDE_MAX_AGE"))
    cause[wrong] = UNEXPLAINED
    why[wrong] = "its status does not follow from its age"
    counts = np.bincount(cause, minlength=len(SERVED))
    kinds, numbers = np.unique(status.astype(str), return_counts=True)
    return ServedProof(
        name,
        log.num_rows,
        log.num_rows * len(features),
        {SERVED[i]: int(n) for i, n in enumerate(counts) if n},
        dict(zip(kinds.tolist(), numbers.tolist(), strict=True)),
        list(_lines(log, asked, np.flatnonzero(cause == UNEXPLAINED)[:5], why, keys)),
        (due - np.where(found, stamp, as_of))[behind] / 1e6,
    )


def _asked(log: pa.Table, group: FeatureGroup) -> pa.Table:
    """Keys, event timestamp and revision of each answer's row, with the types of rows."""
    columns: dict[str, Any] = {f.name: log.column(f.name).cast(f.arrow_type) for f in group.key_fields}
    schema = group.row_schema
    columns[EVENT_TIMESTAMP] = log.column(f"{group.name}__event_timestamp").cast(schema.field(EVENT_TIMESTAMP).type)
    columns[REVISION] = log.column(f"{group.name}__tandem_revision").cast(pa.int64())
    return table_of(pa.table(columns))


def _truth(proof: GroupProof, history: pa.Table | None) -> tuple[pa.Table, Int]:
    """Batch rows, those before included, and the cause of each (how the stream's row of that name compares)."""
    c = proof.comparison
    cause = proof.cause[: c.batch.num_rows].astype(np.int64)
    if history is None or not history.num_rows:
        return c.batch, cause
    names = [n for n in c.batch.schema.names if n in history.schema.names]
    columns = {n: pa.concat_arrays([table_of(t.select([n])).column(0).chunk(0) for t in (history, c.batch)]) for n in names}
    return pa.table(columns), np.concatenate([np.full(history.num_rows, EQUAL, np.int64), cause])


def _filled(table: pa.Table, name: str) -> Int:
    out: Int = table.column(name).cast(pa.int64()).fill_null(-1).to_numpy()
    return out


def _alike(log: pa.Table, view: str, features: list[str], place: Int, rows: pa.Table, status: npt.NDArray[np.object_]) -> Bool:
    """Whose served values are those of the row at ``place``. An answer that is too old holds no values: its row alone counts."""
    out = place >= 0
    there = np.flatnonzero(out)
    take, mine = pa.array(place[there]), pa.array(there)
    old = status[there] == "OUTSIDE_MAX_AGE"
    for feature in features:
        if feature not in rows.schema.names:
            continue
        served, theirs = log.column(f"{view}__{feature}").take(mine), rows.column(feature).take(take)
        asked = log.column(f"{view}__{feature}__status").take(mine).is_valid().to_numpy()
        if served.type != theirs.type:
            try:
                served = served.cast(theirs.type)
            except pa.ArrowException:  # rows of an earlier definition: no such value was served
                served = pa.nulls(len(served), theirs.type)
        out[there] &= same(served, theirs) | old | ~asked
    return out


def taken(rows: pa.Table, name: str, place: Int) -> Int:
    """A column of integers at ``place``; -1 where that is -1."""
    out = np.full(len(place), -1, np.int64)
    out[place >= 0] = rows.column(name).to_numpy()[place[place >= 0]]
    return out


def _revision(truth: pa.Table, place: Int, revision: Int) -> Bool:
    """Whose revision is that of the batch row, or not on record."""
    out: Bool = (revision < 0) | (taken(truth, REVISION, place) == revision)
    return out


def _other_graph(log: pa.Table, view: str, fingerprint: str) -> Bool:
    """Whose row bears another fingerprint (on record for rows that are present)."""
    name = f"{view}__{FINGERPRINT}"
    if name not in log.schema.names:
        return np.zeros(log.num_rows, np.bool_)
    return np.array([p is not None and p != fingerprint for p in log.column(name).to_pylist()], np.bool_)


def _stale(asked: pa.Table, stamp: Int, revision: Int, delivered: pa.Table, readable: Int, by: Int, keys: tuple[str, ...]) -> Bool:
    """For which answers a row greater in (event timestamp, revision) was readable before ``by``."""
    if not delivered.num_rows:
        return np.zeros(asked.num_rows, np.bool_)
    delivered, n = table_of(delivered), asked.num_rows
    pairs = [np.concatenate(p) for p in ((stamp, column_us(delivered, EVENT_TIMESTAMP)), (revision, column_us(delivered, REVISION)))]
    rank = np.unique(np.stack(pairs, axis=1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    instants, moment = np.unique(np.concatenate([by, readable]), return_inverse=True)
    mine, theirs = common_codes([asked, delivered], keys)
    room, ranks = len(instants) + 1, len(rank) + 1
    order = np.lexsort((moment[n:], theirs))
    # The greatest row of a key up to each instant; keys ascend, so one pass over all of them does.
    best = np.maximum.accumulate(theirs[order] * ranks + rank[n:][order])
    place = np.searchsorted(theirs[order] * room + moment[n:][order], mine * room + moment[:n]) - 1
    known = (place >= 0) & (theirs[order][np.maximum(place, 0)] == mine)
    stale: Bool = known & (best[np.maximum(place, 0)] > mine * ranks + rank[:n])
    return stale


def _corrected_at(asked: pa.Table, revision: Int, delivered: pa.Table, keys: tuple[str, ...]) -> Int:
    """When the first row was made that corrects each answer's: of the same keys and event timestamp and a greater revision; FAR if none
    was."""
    none = np.full(asked.num_rows, FAR, np.int64)
    if not delivered.num_rows or CREATED not in delivered.schema.names:
        return none
    delivered = table_of(delivered)
    mine, theirs = common_codes([asked, delivered], (*keys, EVENT_TIMESTAMP))
    revisions, rank = np.unique(np.concatenate([revision, column_us(delivered, REVISION)]), return_inverse=True)
    moments, moment = np.unique(column_us(delivered, CREATED), return_inverse=True)
    room, times = len(revisions), len(moments)
    place = theirs * room + rank[len(revision) :]
    order = np.argsort(place, kind="stable")
    # The earliest of a code from each revision on; codes descend from the end, so one pass over all of them does.
    earliest = np.minimum.accumulate((theirs * times + moment)[order][::-1])[::-1]
    first = np.searchsorted(place[order], mine * room + rank[: len(revision)], side="right")
    known = first < len(order)
    known[known] = theirs[order][first[known]] == mine[known]
    none[known] = moments[earliest[first[known]] - mine[known] * times]
    return none


def due_rows(asked: pa.Table, truth: pa.Table, as_of: Int, keys: tuple[str, ...]) -> Int:
    """The event timestamp of each key's newest batch row that is not after ``as_of``; -1 for none."""
    mine, theirs = common_codes([asked, truth], keys)
    stamps = column_us(truth, EVENT_TIMESTAMP)
    order = np.lexsort((stamps, theirs))
    instants, rank = np.unique(np.concatenate([stamps, as_of]), return_inverse=True)
    room = len(instants) + 1
    sorted_ = (theirs * room + rank[: len(stamps)])[order]
    place = np.searchsorted(sorted_, mine * room + rank[len(stamps) :], side="right") - 1
    out = np.full(len(as_of), -1, np.int64)
    good = (place >= 0) & (theirs[order][np.maximum(place, 0)] == mine) if len(order) else np.zeros(len(as_of), np.bool_)
    out[good] = stamps[order][place[good]]
    return out


def _lines(log: pa.Table, asked: pa.Table, rows: Int, why: npt.NDArray[np.object_], keys: tuple[str, ...]) -> Any:
    for i in rows.tolist():
        key = ", ".join(f"{k}={asked.column(k)[i].as_py()!r}" for k in keys)
        yield f"request {log.column('tandem_request')[i].as_py()}: {key}: {why[i]}"
