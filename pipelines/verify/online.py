"""The online store against what was delivered, and against batch: for every key the newest row, no older one and no other.

A writer without order leaves an older row over a newer one; rows and causes of the row log cannot show that, the store does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.feature_store.store import ordered_store
from pipelines.lake.row_compare import common_codes, locate, same, table_of
from pipelines.verify.causes import CAUSES, EQUAL, IN_FLIGHT, OTHER_FINGERPRINT, OUTSIDE, UNEXPLAINED, Position
from pipelines.verify.proof import GroupProof
from transforms.columns import column_us
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION, TIMESTAMP, FeatureGroup

__all__ = ["OnlineProof", "Stored", "against", "check", "latest", "store_reader"]

Int = npt.NDArray[np.int64]
Stored = Callable[[FeatureGroup, pa.Table, pa.Schema], pa.Table]
"""(group, keys, the schema of its delivered rows) -> the stored rows of those keys that are there: keys, event timestamp, features."""

ANOTHER_WRITER = "materialized"
KEYS_AT_ONCE = 2_000


@dataclass(frozen=True)
class OnlineProof:
    """The keys of one group: how many, and by cause (``equal``, those of :data:`CAUSES`, ``materialized``: a row that batch has too,
    or that was materialized, and that the stream did not deliver; ``outside the run``: what was delivered, of a time that batch does not
    have, and batch has no newer row). ``lines``: a few of what nothing explains."""

    group: str
    keys: int
    causes: dict[str, int]
    lines: list[str]

    @property
    def unexplained(self) -> int:
        """Keys whose stored row nothing explains."""
        return self.causes.get(CAUSES[UNEXPLAINED], 0)


def latest(rows: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """The row of each key with the greatest (event timestamp, revision), of equals the last."""
    rows = table_of(rows)
    if not rows.num_rows:
        return rows
    (code,) = common_codes([rows], keys)
    order = np.lexsort((np.arange(rows.num_rows), rows.column(REVISION).to_numpy(), column_us(rows, EVENT_TIMESTAMP), code))
    last = order[np.append(code[order][1:] != code[order][:-1], True)]
    return table_of(rows.take(pa.array(np.sort(last))))


def check(
    proof: GroupProof,
    delivered: pa.Table,
    vouched: pa.Table,
    position: Position,
    read: Stored,
    applied: str | None,
    materialized: pa.Table | None = None,
    span: tuple[int, int] | None = None,
) -> OnlineProof:
    """Compare what the store holds for each key with the newest delivered row, and then with the newest batch row that was due.

    ``delivered``: every row of the row log, in order; ``vouched``: those that the checkpoints vouch for; ``applied``: the
    fingerprint that the store takes rows of (None: any); ``materialized``: what the store took from the runs, per key; ``span``: batch has
    the rows with first < boundary <= last (None: of all that the stream delivered).
    """
    group, c = proof.group, proof.comparison
    keys = tuple(group.entity.keys)
    passed = column_us(c.batch, EVENT_TIMESTAMP) - group.delay_us <= position.output_watermark[position.shard(c.batch, group)]
    due = c.batch.filter(pa.array(passed))
    ours, theirs = latest(delivered, keys), latest(due, keys)
    names = _keys(ours, theirs, keys)
    stored = table_of(read(group, names, delivered.schema))
    at = locate(names, stored, keys)
    cause = np.full(names.num_rows, UNEXPLAINED, np.int64)
    why = np.array(["nothing is stored"] * names.num_rows, dtype=object)
    stand = {side: against(names, stored, rows, keys) for side, rows in (("delivered", ours), ("batch", theirs))}
    is_delivered, is_batch = stand["delivered"] == 0, stand["batch"] == 0
    # What was delivered is right as far as its row is.
    of_row = _cause_of(names, theirs, proof)
    cause[is_delivered] = np.where(is_batch[is_delivered], EQUAL, of_row[is_delivered])
    ahead = _beyond(names, ours, group, position) | _newer(names, ours, latest(vouched, keys), keys)
    cause[is_delivered & ahead & (cause == UNEXPLAINED)] = IN_FLIGHT
    # Keys that the stream never delivered: as batch has it (somebody materialized), or for the reason that the row is missing.
    never = stand["delivered"] == NOT_THERE
    cause[never] = np.where(is_batch[never], EQUAL, of_row[never])
    other = stand["delivered"] == NEWER
    writer = np.zeros(names.num_rows, np.bool_)
    if other.any():
        writer = other & _in(stored, at, c.batch, keys)
        beyond = _beyond(names, stored, group, position)
        cause[other & beyond & ~writer] = IN_FLIGHT
    if materialized is not None and materialized.num_rows:  # the runs decide up to where they were materialized
        writer |= ~is_delivered & _in(stored, at, table_of(materialized), keys)
    replaced = stand["delivered"] == OTHER_VALUES
    if replaced.any() and applied is not None and FINGERPRINT in stored.schema.names:
        print_ = np.array([stored.column(FINGERPRINT)[int(i)].as_py() if i >= 0 else None for i in at], dtype=object)
        cause[replaced & (print_ == applied) & _in(stored, at, delivered, (*keys, REVISION, FINGERPRINT))] = OTHER_FINGERPRINT
    for state, text in ((OLDER, "an older row is stored"), (OTHER_VALUES, "other values are stored"), (NEWER, "a newer row is stored")):
        why[stand["delivered"] == state] = text
    why[is_delivered] = "what was delivered is not what batch has"
    outside = np.zeros(names.num_rows, np.bool_)
    if span is not None:  # what batch's newest row differs for says nothing of a row that comes after it
        outside = is_delivered & ~is_batch & ~writer & _outside(names, ours, theirs, group, span)
    bad = (cause == UNEXPLAINED) & ~writer & ~outside
    counts: dict[str, int] = {CAUSES[i]: int(((cause == i) & ~writer & ~outside).sum()) for i in range(len(CAUSES))}
    counts[ANOTHER_WRITER], counts[OUTSIDE] = int(writer.sum()), int(outside.sum())
    return OnlineProof(group.name, names.num_rows, {k: n for k, n in counts.items() if n}, list(_lines(names, bad, why, keys)))


OLDER, SAME, NEWER, OTHER_VALUES, NOT_STORED, NOT_THERE = -1, 0, 1, 2, 3, 4


def against(names: pa.Table, stored: pa.Table, rows: pa.Table, keys: tuple[str, ...]) -> Int:
    """Per key how the stored row stands to the one in ``rows``; NOT_STORED, NOT_THERE where there is none."""
    here, there = locate(names, stored, keys), locate(names, rows, keys)
    out = np.where(there < 0, NOT_THERE, NOT_STORED).astype(np.int64)
    both = np.flatnonzero((here >= 0) & (there >= 0))
    a, b = table_of(stored.take(pa.array(here[both]))), table_of(rows.take(pa.array(there[both])))
    if not len(both):
        return out
    mine, theirs = (np.stack([column_us(t, EVENT_TIMESTAMP), t.column(REVISION).fill_null(-1).to_numpy()]) for t in (a, b))
    newer = (mine[0] > theirs[0]) | ((mine[0] == theirs[0]) & (mine[1] > theirs[1]))
    older = (mine[0] < theirs[0]) | ((mine[0] == theirs[0]) & (mine[1] < theirs[1]))
    wrong = np.zeros(len(both), np.bool_)
    for name in (n for n in a.schema.names if n in b.schema.names and n not in (*keys, "created_timestamp")):
        wrong |= ~same(a.column(name), b.column(name))
    out[both] = np.select([newer, older, wrong], [NEWER, OLDER, OTHER_VALUES], SAME)
    return out


def _keys(ours: pa.Table, theirs: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    both = {k: pa.concat_arrays([table_of(t.select([k])).column(0).chunk(0) for t in (ours, theirs)]) for k in keys}
    table = pa.table(both)
    (code,) = common_codes([table], keys)
    return table_of(table.take(pa.array(np.sort(np.unique(code, return_index=True)[1]))))


def _cause_of(names: pa.Table, rows: pa.Table, proof: GroupProof) -> Int:
    """The cause of the newest batch row of each key, from the comparison of rows (UNEXPLAINED where there is none)."""
    c = proof.comparison
    place = locate(names, rows, c.keys)
    out = np.full(names.num_rows, UNEXPLAINED, np.int64)
    there = np.flatnonzero(place >= 0)
    found = locate(rows.take(pa.array(place[there])), c.names, (*c.keys, EVENT_TIMESTAMP))
    out[there] = proof.cause[found]
    # A row that is equal cannot be why the store holds another one.
    out[out == EQUAL] = UNEXPLAINED
    return out


def _beyond(names: pa.Table, rows: pa.Table, group: FeatureGroup, position: Position) -> npt.NDArray[np.bool_]:
    """Whose row lies beyond what its shard had emitted."""
    place = locate(names, rows, group.entity.keys)
    out = np.zeros(names.num_rows, np.bool_)
    there = place >= 0
    boundary = column_us(rows, EVENT_TIMESTAMP)[place[there]] - group.delay_us
    out[there] = boundary > position.output_watermark[position.shard(names, group)][there]
    return out


def _outside(names: pa.Table, rows: pa.Table, due: pa.Table, group: FeatureGroup, span: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whose row is of a time that batch does not have, and of which batch cannot say more: it has no row that is due of that key, or the
    row lies behind all that it has."""
    place = locate(names, rows, group.entity.keys)
    out = np.zeros(names.num_rows, np.bool_)
    there = place >= 0
    boundary = column_us(rows, EVENT_TIMESTAMP)[place[there]] - group.delay_us
    unknown = locate(names, due, group.entity.keys)[there] < 0
    out[there] = (boundary <= span[0]) & unknown | (boundary > span[1])
    return out


def _newer(names: pa.Table, ours: pa.Table, vouched: pa.Table, keys: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Of which keys something newer was delivered than any checkpoint vouches for."""
    a, b = locate(names, ours, keys), locate(names, vouched, keys)
    both = (a >= 0) & (b >= 0)
    out = (a >= 0) & (b < 0)
    for column in (lambda t: column_us(t, EVENT_TIMESTAMP), lambda t: t.column(REVISION).to_numpy()):
        out[both] |= column(ours)[a[both]] != column(vouched)[b[both]]
    return out


def _in(stored: pa.Table, at: Int, rows: pa.Table, keys: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Whose stored row is among ``rows``, all values alike."""
    out = np.zeros(len(at), np.bool_)
    there = np.flatnonzero(at >= 0)
    mine = stored.take(pa.array(at[there]))
    names = tuple(dict.fromkeys([*keys, EVENT_TIMESTAMP]))
    place = locate(mine, rows, names)
    found = place >= 0
    if found.any():
        a, b = table_of(mine.filter(pa.array(found))), table_of(rows.take(pa.array(place[found])))
        wrong = np.zeros(a.num_rows, np.bool_)
        for name in (n for n in a.schema.names if n in b.schema.names and n not in (*names, "created_timestamp")):
            wrong |= ~same(a.column(name), b.column(name))
        out[there[np.flatnonzero(found)[~wrong]]] = True
    return out


def _lines(names: pa.Table, bad: npt.NDArray[np.bool_], why: Any, keys: tuple[str, ...]) -> Iterator[str]:
    for i in np.flatnonzero(bad)[:5].tolist():
        yield f"{', '.join(f'{k}={names.column(k)[i].as_py()!r}' for k in keys)}: {why[i]}"


# ------------------------------------------------------------------------------------------------------------- Feast's store


def store_reader(store: Any) -> tuple[Stored, Callable[[str], str | None]]:
    """How to read rows of the online store of a ``feast.FeatureStore``, however old they are; and the applied fingerprint of a view.

    Raises ConfigError for a store without ordered writes.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    online, config = ordered_store(store), store.config

    def read(group: FeatureGroup, keys: pa.Table, schema: pa.Schema) -> pa.Table:
        view = store.get_feature_view(group.name)
        names = [f.name for f in view.features if f.name in schema.names]
        slots = ["string_val" if pa.types.is_string(keys.schema.field(k).type) else "int64_val" for k in group.entity.keys]
        columns: dict[str, list[Any]] = {n: [] for n in (*group.entity.keys, EVENT_TIMESTAMP, *names)}
        for start in range(0, keys.num_rows, KEYS_AT_ONCE):
            some = [tuple(row.values()) for row in keys.select(group.entity.keys).slice(start, KEYS_AT_ONCE).to_pylist()]
            wanted = [
                EntityKey(join_keys=list(group.entity.keys), entity_values=[Value(**{s: v}) for s, v in zip(slots, key, strict=True)])
                for key in some
            ]
            for key, (at, values) in zip(some, online.online_read_stored(config, view, wanted, names), strict=True):
                if at is None or values is None:
                    continue
                for name, part in zip(group.entity.keys, key, strict=True):
                    columns[name].append(part)
                columns[EVENT_TIMESTAMP].append(at)
                for name in names:
                    columns[name].append(_python(values[name]) if name in values else None)
        types = {EVENT_TIMESTAMP: TIMESTAMP, **{f.name: f.type for f in schema}}
        return pa.table({n: pa.array(v, type=types[n]) for n, v in columns.items()})

    return read, lambda view: online.applied_fingerprint(config, view)


def _python(value: Any) -> Any:
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    out = getattr(value, kind)
    return list(out.val) if kind.endswith("_list_val") else out
