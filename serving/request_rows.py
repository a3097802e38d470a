"""What was asked and answered, as columns: the rows of the request log. Pure functions."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.features import NOT_FOUND, STATUSES, ViewRows
from serving.packed_view_rows import PackedViewRows
from serving.projections import Projection
from serving.view_rows import Codes
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION, TIMESTAMP

__all__ = ["PROJECTION", "RequestRecord", "merged", "projection_in", "sampled", "to_batches", "view_answers"]

PROJECTION = "tandem_projection"
"""``<view>__`` and this: a column that says what the view is, where it is a use of another one (``serving.projections``)."""

_DAY_US = 86_400_000_000


@dataclass(slots=True)  # not frozen: making one of twenty fields by object.__setattr__ is a fiftieth of a small answer
class RequestRecord:
    """One request that was answered: N instances (or entities), the rows read for them, and the N predictions (None: features alone). Not
    to be changed."""

    request_id: str
    at_us: int
    """Wall time of the answer."""
    as_of_us: int
    """The instant that ages and TTLs were judged at."""
    endpoint: str
    rows: int
    columns: Mapping[str, Sequence[Any]]
    """Entity keys and request fields, N values each."""
    types: Mapping[str, pa.DataType]
    """Of the columns."""
    groups: Mapping[str, ViewRows]
    model: str | None = None
    version: int | None = None
    run: str | None = None
    predictions: Sequence[Any] | None = None
    principal: str | None = None
    """Who asked; None: the server asks nobody."""
    client_request: str | None = None
    """The id that the caller gave the request."""
    shadow_version: int | None = None
    """The challenger that was run on the same rows; None: none was, and its columns are left out."""
    shadow_run: str | None = None
    shadow_predictions: Sequence[Any] | None = None


def sampled(request_id: str, share: float) -> bool:
    """Whether a request belongs to the share that is logged. The same ids are chosen everywhere, and a greater share includes a smaller."""
    if share >= 1:
        return True
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def _at_once() -> None:
    """Nothing is done between columns."""


def to_batches(records: Iterable[RequestRecord], between: Callable[[], object] = _at_once) -> list[tuple[int, pa.RecordBatch]]:
    """(UTC day of the answers, counted from 1970; rows) for requests of any kind, one batch per day and set of columns. ``between`` is
    called after each column or two: a batch has dozens.

    Raises ValueError if two columns of a request would be called the same.
    """
    alike: dict[Any, list[RequestRecord]] = {}
    found: dict[Any, list[RequestRecord]] = {}
    for a in records:
        # Most requests have the same plans; those are told by what they share, without a look at what is in it.
        form = (a.at_us // _DAY_US, id(a.types), *[id(g.plan) if isinstance(g, PackedViewRows) else id(g) for g in a.groups.values()])
        plain = a.predictions is None and a.shadow_version is None and a.model is None
        some = found.get(form) if plain else None
        if some is None:
            views = tuple((name, *_kind(group)) for name, group in a.groups.items())
            kind = (a.at_us // _DAY_US, a.model is None, tuple(a.types.items()), views, _type(a.predictions), _shadow_type(a))
            some = alike.setdefault(kind, [])
            if plain:
                found[form] = some
        some.append(a)
    return [(day, _batch(some, between)) for (day, *_), some in alike.items()]


def _kind(group: ViewRows) -> tuple[Any, ...]:
    """What answers have in common whose columns are of one kind. Packed rows need no look at their values for that."""
    if isinstance(group, PackedViewRows):
        return ("packed", group.alike)
    return (*group.columns, *(c.type for c in group.columns.values()))


def merged(batches: Iterable[tuple[int, pa.RecordBatch]]) -> list[tuple[int, pa.Table]]:
    """Batches of :func:`to_batches` as few tables: of predictions one per day and set of columns, of requests for features alone one per
    day, with nulls where a request asked for less. So nobody can make a file per request by asking for ever other sets of features.

    A column whose type changed begins another table.
    """
    alike: dict[Any, list[tuple[dict[str, pa.DataType], list[pa.RecordBatch]]]] = {}
    for day, batch in batches:
        features_alone = batch.column(batch.schema.get_field_index("tandem_model"))[0].as_py() is None
        tables = alike.setdefault((day, None if features_alone else batch.schema), [])
        kinds = {field.name: field.type for field in batch.schema}
        for known, some in tables:
            if all(known.get(name, kind) == kind for name, kind in kinds.items()):
                known.update(kinds)
                some.append(batch)
                break
        else:
            tables.append((kinds, [batch]))
    out = []
    for (day, _), tables in alike.items():
        for kinds, some in tables:
            schema = pa.schema(list(kinds.items()))
            out.append((day, pa.concat_tables([_widened(batch, schema) for batch in some])))
    return out


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    have = {name: i for i, name in enumerate(batch.schema.names)}
    columns = [batch.column(have[f.name]) if f.name in have else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _type(predictions: Sequence[Any] | None) -> pa.DataType:
    return pa.list_(pa.float64()) if predictions and isinstance(predictions[0], list) else pa.float64()


def _shadow_type(a: RequestRecord) -> pa.DataType | None:
    return None if a.shadow_version is None else _type(a.shadow_predictions)


def _batch(some: list[RequestRecord], between: Callable[[], object]) -> pa.RecordBatch:
    first, counts = some[0], np.array([a.rows for a in some])
    which = np.repeat(np.arange(len(some)), counts)
    at = pa.array(which)

    def each(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, type=kind).take(at) if any(v is not None for v in values) else pa.nulls(len(which), kind)

    def words(values: list[str]) -> pa.Array:
        known = pa.array(values).dictionary_encode()
        return pa.DictionaryArray.from_arrays(known.indices.take(at), known.dictionary)

    def numbers(values: Iterable[Sequence[Any] | None], kind: pa.DataType) -> pa.Array:
        if not any(given := list(values)):
            return pa.nulls(len(which), kind)
        return pa.array([p for a, own in zip(some, given, strict=True) for p in (own or [None] * a.rows)], type=kind)

    columns: list[tuple[str, pa.Array]] = [
        ("tandem_request", words([a.request_id for a in some])),
        ("tandem_row", pa.array((np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32))),
        ("tandem_at", each([a.at_us for a in some], TIMESTAMP)),
        ("tandem_as_of", each([a.as_of_us for a in some], TIMESTAMP)),
        ("tandem_endpoint", words([a.endpoint for a in some])),
        ("tandem_model", each([a.model for a in some], pa.string())),
        ("tandem_version", each([a.version for a in some], pa.int64())),
        ("tandem_run", each([a.run for a in some], pa.string())),
        ("tandem_prediction", numbers((a.predictions for a in some), _type(first.predictions))),
        ("tandem_principal", each([a.principal for a in some], pa.string())),
        ("tandem_client_request", each([a.client_request for a in some], pa.string())),
    ]
    if (kind := _shadow_type(first)) is not None:
        columns += [
            ("tandem_shadow_version", each([a.shadow_version for a in some], pa.int64())),
            ("tandem_shadow_run", each([a.shadow_run for a in some], pa.string())),
            ("tandem_shadow_prediction", numbers((a.shadow_predictions for a in some), kind)),
        ]
    between()
    for name, dtype in first.types.items():
        columns.append((name, pa.array([v for a in some for v in a.columns[name]], type=dtype)))
        between()
    for view in first.groups:
        for column in _view(view, [a.groups[view] for a in some]):
            columns.append(column)
            between()
    names = [name for name, _ in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"two columns are called {Counter(names).most_common(1)[0][0]!r}")
    return pa.RecordBatch.from_arrays([column for _, column in columns], names)


def _view(view: str, groups: list[ViewRows]) -> Iterator[tuple[str, pa.Array]]:
    if len(packed := [group for group in groups if isinstance(group, PackedViewRows)]) == len(groups):
        groups = [PackedViewRows.together(packed)]
    row_status = _joined([g.row_status for g in groups])
    absent = row_status == NOT_FOUND if row_status.any() else None
    own: dict[str, pa.Array] = {
        "tandem_status": _words(row_status),
        EVENT_TIMESTAMP: pa.array(_joined([g.timestamps_us for g in groups]), mask=absent).view(TIMESTAMP),
        "tandem_age": pa.array(_joined([g.ages for g in groups]), mask=absent),
        REVISION: _joined_columns([g.revision_column for g in groups]),
        FINGERPRINT: _joined_columns([g.fingerprint_column for g in groups]),
    }
    yield from ((f"{view}__{name}", column) for name, column in own.items())
    if any(g.projection is not None for g in groups):
        used = [None if g.projection is None else g.projection.text() for g in groups]
        which = np.repeat(np.arange(len(groups)), [len(g.row_status) for g in groups])
        yield f"{view}__{PROJECTION}", pa.array(used, type=pa.string()).take(pa.array(which))
    said = {id(row_status): own["tandem_status"]}  # of most features the words are those of the rows
    for feature in groups[0].features:
        if feature not in own:  # asked for by name; it stands above
            codes = _joined([g.statuses_of(feature) for g in groups])
            yield f"{view}__{feature}", _joined_columns([g.column_of(feature) for g in groups])
            yield f"{view}__{feature}__status", said[id(codes)] if id(codes) in said else _words(codes)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _joined_columns(parts: list[pa.Array]) -> pa.Array:
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)


_WORDS = pa.array(STATUSES)


def _words(codes: Codes) -> pa.DictionaryArray:
    """Status codes as words, each of which is kept once: what they are written as by their numbers costs half of what their texts do."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.view(np.int8)), _WORDS, safe=False)


def projection_in(answer: Mapping[str, Any], name: str) -> Projection:
    """What the view called ``name`` in a logged row is."""
    text = answer.get(f"{name}__{PROJECTION}")
    return Projection(name) if text is None else Projection.of(json.loads(text))


def view_answers(log: pa.Table, view: str, keys: Sequence[str]) -> pa.Table | None:
    """All logged answers of a view of the registry, however it was called when it was asked; None if there is none.

    One row per answer and use: the columns ``<view>__...`` and ``keys`` are that use's, whatever they are called in the log; all others are
    as they are there. A feature that a use did not ask for is null, as is its status.
    """
    names = [c.removesuffix("__tandem_status") for c in log.schema.names if c.endswith("__tandem_status")]
    found = []
    for name in names:
        column = f"{name}__{PROJECTION}"
        for text in pc.unique(log.column(column)).to_pylist() if column in log.schema.names else [None]:
            use = projection_in({column: text}, name)
            if use.view != view or any(use.column(k) not in log.schema.names for k in keys):
                continue
            rows = log.filter(log.column(f"{name}__tandem_status").is_valid())
            if column in log.schema.names:
                rows = rows.filter(rows.column(column).is_null() if text is None else pc.equal(rows.column(column), text))
            if rows.num_rows:
                found.append(_as_view(rows, name, use, keys))
    if not found:
        return None
    types = {f.name: f.type for t in found for f in t.schema}
    whole = [pa.table({n: t.column(n) if n in t.schema.names else pa.nulls(t.num_rows, k) for n, k in types.items()}) for t in found]
    return pa.concat_tables(whole)


def _as_view(rows: pa.Table, name: str, use: Projection, keys: Sequence[str]) -> pa.Table:
    """The rows with the columns of one use of a view called as those of the view itself."""
    own = {f"{use.view}__{c.removeprefix(f'{name}__')}": rows.column(c) for c in rows.schema.names if c.startswith(f"{name}__")}
    own.update({key: rows.column(use.column(key)) for key in keys})
    prefix = f"{use.view}__"
    others = {c: rows.column(c) for c in rows.schema.names if c not in own and not c.startswith((f"{name}__", prefix))}
    return pa.table({**others, **own})
