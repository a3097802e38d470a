"""What a run of trials must have left behind; each function returns the differences, one line each."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from pipelines.sources.letters import Letter, scan
from pipelines.streaming.state.row_log import newest, read_late, read_rows
from tests.oracle.compare import bits, differences, to_dicts
from tests.prove.rig import Rig, Stream
from transforms.definitions import FeatureGroup

__all__ = ["all_of", "dead_letters", "found_letters", "late_log", "letters", "online", "row_log"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plain(value: Value | None) -> Any:
    """A stored value in Python's terms."""
    kind = value.WhichOneof("val") if value is not None else None
    if value is None or kind in (None, "null_val"):
        return None
    found = getattr(value, kind)
    return list(found.val) if kind.endswith("_list_val") else found


def _null(value: Any) -> Any:
    """Feast's own writer makes NaN of null: that is not what the negative control is about."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return [] if value is None else value


def _keys(rig: Rig, group: FeatureGroup) -> list[tuple[Any, ...]]:
    """Every entity that any record of the slice or its history names."""
    whole = rig.slice.due(len(rig.slice.records)).online[group.name]
    past = rig.slice.history[group.source.name].select(list(group.entity.keys)).to_pylist()
    return sorted({*whole, *(tuple(r[k] for k in group.entity.keys) for r in past)})


def online(rig: Rig, n: int) -> list[str]:
    """Every value of every entity in the online store against what the first n records make, bit for bit."""
    out, due = [], rig.slice.due(n)
    store = rig.feast_store
    writer = store._get_provider().online_store
    for name, group in rig.repo.groups.items():
        view, keys = store.get_feature_view(name), _keys(rig, group)
        names = [*(f.name for f in group.features), "tandem_revision"]
        protos = [EntityKey(join_keys=list(group.entity.keys), entity_values=[Value(string_val=v) for v in k]) for k in keys]
        try:
            read = (writer.online_read if rig.stock else writer.online_read_stored)(store.config, view, protos, list(names))
        except Exception as error:  # stock SQLite where nothing was written
            if not rig.stock:
                raise
            read = [(None, None)] * len(keys)
            out.append(f"{name}: {error}")
        for key, (at, values) in zip(keys, read, strict=True):
            if rig.stock and at is not None and at.timestamp() == 0:  # stock Redis says so for what is not there
                at = None
            want = due.online[name].get(key)
            if want is None or at is None or values is None:
                if (want is None) != (at is None):
                    out.append(f"{name} {key}: {'nothing' if at is None else at} is stored, {want and want['event_timestamp']} is due")
                continue
            stored = round((at.replace(tzinfo=UTC) - EPOCH).total_seconds() * 1e6)
            due_at = want["event_timestamp"]
            if stored // (10**6 if rig.stock else 1) != due_at // (10**6 if rig.stock else 1):
                out.append(f"{name} {key}: the row of {stored} is stored, that of {due_at} is due")
                continue
            for feature in names:
                found, expected = plain(values.get(feature)), want[feature]
                if rig.stock:
                    found, expected = _null(found), _null(expected)
                if bits(found) != bits(expected):
                    out.append(f"{name} {key} at {due_at}: {feature} is {found!r} instead of {expected!r}")
    return out


def row_log(stream: Stream, n: int) -> list[str]:
    """The newest revision of every row against the oracle's, and that no revision was ever given two sets of values."""
    out, due = [], stream.rig.slice.due(n, rows=True)
    progress = stream.control.load_checkpoints()
    for name, group in stream.rig.repo.groups.items():
        for number, point in progress.items():
            if point["output_watermark"][name] != due.output_watermark[name]:
                out.append(
                    f"{name}: shard {number} emitted up to {point['output_watermark'][name]} instead of {due.output_watermark[name]}"
                )
        raw = read_rows(stream.folder, group)
        if not raw.num_rows:
            out += [f"{name}: no rows"] if due.rows[name] else []
            continue
        want = due.rows[name]
        got = to_dicts(newest(raw, group).select(group.row_schema.names))
        here = {_name(r, group): r for r in got}
        there = {_name(r, group): r for r in want}
        out += [f"{name}: row {k} is missing" for k in sorted(there.keys() - here.keys())]
        out += [f"{name}: row {k} should not be" for k in sorted(here.keys() - there.keys())]
        both = sorted(there.keys() & here.keys())
        out += [f"{name} {line}" for line in differences([here[k] for k in both], [there[k] for k in both])]
        seen: dict[Any, Any] = {}
        for row in to_dicts(raw.select(group.row_schema.names)):
            values = bits(list(row.values()))
            if seen.setdefault((_name(row, group), row["tandem_revision"]), values) != values:
                out.append(f"{name}: revision {row['tandem_revision']} of {_name(row, group)} was delivered with two sets of values")
    return out


def _name(row: dict[str, Any], group: FeatureGroup) -> tuple[Any, ...]:
    return (*(row[k] for k in group.entity.keys), row["event_timestamp"])


def late_log(stream: Stream, n: int) -> list[str]:
    """The events noted as too late, as a set: repeats are allowed."""
    due, found = stream.rig.slice.due(n).late, set()
    for name in stream.rig.repo.sources:
        for row in read_late(stream.folder, name).to_pylist():
            found.add((name, row["_partition"], row["_offset"]))
    return _sets("too-late event", found, due)


def letters(rig: Rig) -> list[Letter]:
    """All that lie in the dead-letter topic."""
    reader = KafkaPartitionReader(dict(rig.options))
    try:
        return [letter for letter in scan(reader, f"{rig.prefix}dead") if letter is not None]
    finally:
        reader.close()


def found_letters(rig: Rig) -> Counter[tuple[str, int, int]]:
    """How often each record lies in the dead-letter topic, by (source, partition, offset)."""
    return Counter(map(_where, [*rig.letters_before, *letters(rig)]))


def dead_letters(rig: Rig, n: int) -> tuple[list[str], int]:
    """The dead letters, as a set of (source, partition, offset), each with its record's bytes; and how many were written again."""
    found_here = [*rig.letters_before, *letters(rig)]
    records = {(r.source, r.partition, r.offset): r for r in rig.slice.records[:n] if r.broken}
    known = Counter((a.source, a.partition, a.offset) for a in found_here)
    out = _sets("dead letter", set(known), set(records))
    out += [f"dead letter {_where(a)} holds other bytes" for a in found_here if _where(a) in records and not _same(a, records[_where(a)])]
    return out, sum(known.values()) - len(known)


def _where(letter: Letter) -> tuple[str, int, int]:
    return letter.source, letter.partition, letter.offset


def _same(letter: Letter, record: Any) -> bool:
    return (letter.key, letter.value) == (record.key, record.value)


def _sets(what: str, found: set[Any], due: set[Any]) -> list[str]:
    lost, extra = [f"{what} {w} is missing" for w in sorted(due - found)], [f"{what} {w} should not be" for w in sorted(found - due)]
    return lost + extra


def all_of(streams: list[Stream], n: int) -> list[str]:
    """Everything, for streams over the same topics that delivered the first n records."""
    rig = streams[0].rig
    out = online(rig, n) + dead_letters(rig, n)[0]
    for stream in streams:
        out += [f"{stream.name}: {line}" for line in row_log(stream, n) + late_log(stream, n)]
    return out
