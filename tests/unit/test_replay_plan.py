"""What a replay sends: a pure function of the seed; every event once, beside its copies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.project.config import KafkaSettings
from pipelines.replay import event_log as replay_log
from pipelines.replay.event_log import EventLog, Slice
from pipelines.replay.replay_job import schedule
from pipelines.replay.schedule import CORRUPT, DELAYED, DUPLICATE, LATE, ORIGINAL, PLAIN, Alterations, identities, partitions_of, plan
from pipelines.sources.formats.fault_injection import AVRO_KINDS, JSON_KINDS, break_json
from pipelines.sources.formats.record_format import record_format
from transforms.contract import check_json, encode_json
from transforms.definitions import Epoch, EventSource, Field, col, micros, minutes, seconds
from transforms.errors import ConfigError, DataError
from transforms.reasons import REASONS

HOUR, DAY = 3_600_000_000, 86_400_000_000
T0 = 1_362_096_000_000_000  # 1 March 2013
NOW = T0 + 30 * DAY


def make_source(ooo: float = 1, lateness: float = 60, name: str = "departures") -> EventSource:
    return EventSource(
        name=name,
        fields=[Field("flight", "string", required=True), Field("serial", "int64", min=0), Field("delay", "float64", max=1000)],
        event_time="at",
        tie_breaker="flight",
        out_of_orderness=minutes(ooo),
        allowed_lateness=minutes(lateness),
        files=f"events/{name}",
        topic=name,
    )


SOURCE = make_source()
shares = st.sampled_from([0.0, 0.01, 0.3, 0.5])
alterations = st.builds(
    Alterations, st.integers(-(2**70), 2**70), shares, shares, st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.4, 1.0])
)
time_lists = st.lists(st.integers(T0, T0 + 3 * DAY), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@given(time_lists, alterations, st.sampled_from([make_source(), make_source(0, 60), make_source(5, 0), make_source(0, 0)]))
def test_every_event_is_sent_once_beside_its_copies(times: np.ndarray, how: Alterations, source: EventSource) -> None:
    made = plan(times, identities("departures", "f", np.arange(len(times))), source, how)
    original = made.role == ORIGINAL
    assert sorted(made.row[original].tolist()) == list(range(len(times)))
    slack, lateness = micros(source.out_of_orderness), micros(source.allowed_lateness)
    delay = made.arrival_us - times[made.row]
    assert (delay[original & (made.kind == PLAIN)] == 0).all()
    delayed, late = delay[original & (made.kind == DELAYED)], delay[original & (made.kind == LATE)]
    assert ((delayed > 0) & (delayed <= slack + lateness)).all()
    assert (late > slack + lateness).all()
    copies = made.role == DUPLICATE
    arrival = dict(zip(made.row[original].tolist(), made.arrival_us[original].tolist(), strict=True))
    for row, us in zip(made.row[copies].tolist(), made.arrival_us[copies].tolist(), strict=True):
        assert arrival[row] <= us <= arrival[row] + slack
    for row, us in zip(made.row[made.role == CORRUPT].tolist(), made.arrival_us[made.role == CORRUPT].tolist(), strict=True):
        assert us == arrival[row]
    assert len(set(made.row[copies].tolist())) == copies.sum()


@given(time_lists, alterations, st.integers(0, 60))
def test_the_plan_of_an_event_depends_on_nothing_but_itself_and_the_seed(times: np.ndarray, how: Alterations, cut: int) -> None:
    ids = identities("departures", "f", np.arange(len(times)))
    whole = plan(times, ids, SOURCE, how)
    parts = [plan(times[:cut], ids[:cut], SOURCE, how), plan(times[cut:], ids[cut:], SOURCE, how)]
    rows = np.concatenate([parts[0].row, parts[1].row + len(times[:cut])])

    def sends(row: np.ndarray, *columns: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(zip(row.tolist(), *(c.tolist() for c in columns), strict=True))

    joined = [np.concatenate([getattr(p, f) for p in parts]) for f in ("arrival_us", "kind", "role", "dice")]
    assert sends(whole.row, whole.arrival_us, whole.kind, whole.role, whole.dice) == sends(rows, *joined)


def test_shares_are_met_and_seeds_differ() -> None:
    n = 200_000
    times, ids = np.full(n, T0), identities("departures", "f", np.arange(n))
    how = Alterations(7, 0.05, 0.001, 0.01, 0.002)
    made = plan(times, ids, SOURCE, how)
    original = made.role == ORIGINAL
    found = [
        (original & (made.kind == DELAYED)).sum(),
        (original & (made.kind == LATE)).sum(),
        (made.role == DUPLICATE).sum(),
        (made.role == CORRUPT).sum(),
    ]
    for share, count in zip((0.05, 0.001, 0.01, 0.002), found, strict=True):
        assert abs(count - share * n) < 5 * (share * n) ** 0.5
    delays = (made.arrival_us - T0)[original & (made.kind == DELAYED)]
    assert 0.4 < (delays <= micros(SOURCE.out_of_orderness)).mean() < 0.6
    other = plan(times, ids, SOURCE, Alterations(8, 0.05, 0.001, 0.01, 0.002))
    both = set(made.row[original & (made.kind == DELAYED)].tolist()) & set(
        other.row[(other.role == ORIGINAL) & (other.kind == DELAYED)].tolist()
    )
    assert len(both) < 0.004 * n
    again = plan(times, ids, SOURCE, how)
    assert all((getattr(made, f) == getattr(again, f)).all() for f in ("row", "arrival_us", "kind", "role", "dice"))


def test_identities_tell_source_file_and_row_apart() -> None:
    rows = np.arange(1000)
    seen = np.concatenate([identities(s, f, rows) for s in ("a", "b") for f in ("x", "y", "ab")])
    assert len(np.unique(seen)) == len(seen)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"late": 1.5}, "--late 1.5"),
        ({"corrupt": -0.1}, "--corrupt -0.1"),
        ({"disorder": 0.6, "late": 0.5}, "--disorder 0.6 and --late 0.5"),
    ],
)
def test_wrong_shares(shares: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Alterations(**shares)


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 50), st.integers(0, 3))
def test_partitions_are_those_of_kafkas_own_producers(keys: list[bytes], count: int, skip: int) -> None:
    from kafka.partitioner.default import murmur2

    expected = [(murmur2(k) & 0x7FFFFFFF) % count for k in keys]
    assert partitions_of(keys, count).tolist() == expected
    assert partitions_of(pa.array(keys, pa.binary())[skip:], count).tolist() == expected[skip:]


# ---- broken copies -------------------------------------------------------------------------------------------------------

SOURCES = [
    SOURCE,
    EventSource(name="few", fields=[Field("id", "int64", required=True)], event_time="at", tie_breaker="id"),
    EventSource(name="texts", fields=[Field("id", "string", required=True), Field("on", "bool")], event_time="at", tie_breaker="id"),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
@pytest.mark.parametrize("kind", JSON_KINDS)
def test_every_broken_copy_is_refused(kind: str, source: EventSource) -> None:
    values = {"at": T0, "flight": "a:b", "serial": 5, "delay": 1.0, "id": 7 if source.name == "few" else "x", "on": True}
    row = {f.name: values[f.name] for f in source.arrow_schema}
    batch = pa.RecordBatch.from_arrays([pa.array([row[f.name]], f.type) for f in source.arrow_schema], schema=source.arrow_schema)
    payload = encode_json(batch)[0].as_py()
    assert check_json([payload], source, NOW, 0).reasons[0].as_py() is None
    reasons = set()
    for dice in [*range(50), 2**63 + 5]:
        broken = break_json(kind, payload, source, dice)
        assert broken == break_json(kind, payload, source, dice)
        reasons.add(check_json([broken], source, NOW, DAY).reasons[0].as_py())
    assert None not in reasons
    if source is SOURCE:
        expected = {
            "seconds": "wrong_unit_timestamp",
            "milliseconds": "wrong_unit_timestamp",
            "far_future": "future_timestamp",
            "huge": "too_long",
            "invalid_utf8": "invalid_utf8",
            "random_bytes": "invalid_utf8",
            "unknown_schema": "invalid_utf8",  # the id's bytes, where text should begin
        }
        assert expected.get(kind, kind if kind in REASONS else "malformed") in reasons


MAPPED = EventSource(
    name="readings",
    fields=[
        Field("reading_id", "string", required=True, path="readingId"),
        Field("meter_id", "string", required=True, path="meter.serialNumber"),
        Field("kilo_watt", "float64", path="load.kiloWatt"),
        Field("kind", "string"),
        Field("double", "float64", value=col("kilo_watt") * 2),
    ],
    event_time=Field("read_at", "timestamp", path="meta.readAt", parse=Epoch("ms")),
    tie_breaker="reading_id",
    where=col("kind") == "power",
)
READING = {"readingId": "r1", "meter": {"serialNumber": "M"}, "load": {"kiloWatt": 1.5}, "meta": {"readAt": T0 // 1000}, "kind": "power"}
LISTED = EventSource(
    name="lines",
    fields=[Field("line_id", "string", required=True, path="items[].id"), Field("n", "int64", path="items[].n")],
    event_time="at",
    tie_breaker="line_id",
    explode="items",
)


@pytest.mark.parametrize("kind", JSON_KINDS)
@pytest.mark.parametrize(
    ("source", "record"),
    [(MAPPED, READING), (LISTED, {"at": T0, "items": [{"id": "a", "n": 1}, {"id": "b", "n": 2}]})],
    ids=["paths", "elements"],
)
def test_a_broken_copy_of_a_record_with_other_names_is_one_dead_letter(kind: str, source: EventSource, record: dict[str, Any]) -> None:
    payload = json.dumps(record).encode()
    assert len(check_json([payload], source, NOW, 0).accepted) == max(1, len(record.get("items", [0])))
    kept = set()
    for dice in range(20):
        broken = break_json(kind, payload, source, dice)
        checked = check_json([broken], source, NOW, DAY)
        assert (len(checked.accepted), len(checked.rejected)) == (0, 1), broken
        kept.update(checked.reasons.to_pylist())
    if source is MAPPED and kind in ("wrong_type", "missing_field", "overflow"):
        assert kept == {kind}, "the fault is where the field stands"


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"[1]", b"{}"])
def test_what_is_broken_already_becomes_noise(payload: bytes) -> None:
    for kind in JSON_KINDS:
        assert check_json([break_json(kind, payload, SOURCE, 3)], SOURCE, NOW, 0).reasons[0].as_py() is not None


# ---- event logs in order of arrival --------------------------------------------------------------------------------------


def write(folder: Path, name: str, times: list[int], extra: dict[str, list[object]] | None = None) -> None:
    n = len(times)
    columns = {
        "at": pa.array(times, pa.timestamp("us", tz="UTC")),
        "flight": [f"{name}#{i}" for i in range(n)],
        "serial": list(range(n)),
        "delay": [1.5] * n,
    }
    path = folder / "events" / "departures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, **(extra or {})}), path)


def day_of(us: int) -> date:
    return datetime.fromtimestamp(us / 1e6, UTC).date()


def log_of(folder: Path, start: int | None = None, end: int | None = None, sources: list[EventSource] | None = None) -> EventLog:
    return EventLog(folder, sources or [SOURCE], start, end, now_us=NOW, max_future_us=0)


def flights(tables: Iterator[pa.Table] | list[pa.Table]) -> list[tuple[int, str | None, int]]:
    """(arrival, key, role) of everything scheduled, in order."""
    out = []
    for table in tables:
        keys = [k.decode() for k in table.column("key").to_pylist()]
        out += list(zip(table.column("arrival").to_pylist(), keys, table.column("role").to_pylist(), strict=True))
    return out


FORMS = {"departures": record_format(SOURCE, KafkaSettings())}


def spread(folder: Path) -> list[int]:
    """A log in day folders, beside them, and in JSON lines; three days, in no order."""
    times = [int(t) for t in np.random.default_rng(5).integers(T0, T0 + 3 * DAY, 300)]
    for day in range(3):
        mine = [t for t in times[:200] if (t - T0) // DAY == day]
        write(folder, f"date={day_of(T0 + day * DAY)}/part-0.parquet", mine)
    write(folder, "loose.parquet", times[200:260])
    lines = [f'{{"at":{t},"flight":"line#{i}"}}' for i, t in enumerate(times[260:])]
    (folder / "events" / "departures" / "lines.jsonl").write_text("\n".join(lines) + "\n")
    return times


@pytest.mark.parametrize("large", [replay_log.LARGE_BYTES, 1000])
def test_all_events_in_order_whatever_the_files_and_slices(tmp_path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    times = spread(tmp_path)
    how = Alterations(3, disorder=0.3, late=0.05, duplicates=0.1, corrupt=0.1)
    expected = flights(schedule(log_of(tmp_path), how, FORMS))
    monkeypatch.setattr(replay_log, "LARGE_BYTES", large)
    sent = flights(schedule(log_of(tmp_path), how, FORMS))
    assert sent == expected
    arrivals = [us for us, _, _ in sent]
    assert arrivals == sorted(arrivals)
    originals = [key for _, key, role in sent if role == ORIGINAL]
    assert len(set(originals)) == len(originals) == len(times)
    plain = flights(schedule(log_of(tmp_path), Alterations(3), FORMS))
    assert [us for us, _, _ in plain] == sorted(times)


def test_a_range_takes_its_events_alone_and_alters_the_same(tmp_path: Path) -> None:
    times = spread(tmp_path)
    how = Alterations(3, disorder=0.3, duplicates=0.2)
    start, end = T0 + DAY // 2, T0 + 2 * DAY - HOUR
    whole = set(flights(schedule(log_of(tmp_path), how, FORMS)))
    part = flights(schedule(log_of(tmp_path, start, end), how, FORMS))
    assert set(part) <= whole
    assert sum(role == ORIGINAL for _, _, role in part) == sum(start <= t < end for t in times)


def test_memory_holds_a_slice_and_what_is_delayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread(tmp_path)
    seen: list[Slice] = []
    slices = EventLog.slices

    def watched(self: EventLog) -> Iterator[Slice]:
        for piece in slices(self):
            seen.append(piece)
            yield piece

    monkeypatch.setattr(EventLog, "slices", watched)
    schedule_ = schedule(log_of(tmp_path), Alterations(), FORMS)
    first = next(schedule_)
    assert len(seen) == 1  # the second day is not read before the first is sent
    assert max(first.column("arrival").to_pylist()) < T0 + DAY
    assert [s.start_us for s in seen] == [T0]


def test_what_the_contract_refuses_is_sent_among_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, f"date={day_of(T0)}/part-0.parquet", [T0 + HOUR, T0 + 2 * HOUR], {"delay": [1e9, 1.0]})
    folder = tmp_path / "events" / "departures"
    lines = [
        '{"at":0,"flight":"zero"}',
        '{"at":"?","flight":"text"}',
        "{",
        f'{{"at":{NOW * 2},"flight":"future"}}',
        f'{{"at":{T0 + HOUR},"flight":"ok"}}',
    ]
    (folder / f"date={day_of(T0)}" / "x.jsonl").write_text("\n".join(lines))
    [table] = list(schedule(log_of(tmp_path, T0, T0 + DAY), Alterations(), FORMS))
    assert sorted(table.column("arrival").to_pylist()) == [T0 + HOUR] * 6 + [T0 + 2 * HOUR]
    payloads = table.column("payload").to_pylist()
    assert {line.encode() for line in lines} < set(payloads)
    verdicts = check_json(payloads, SOURCE, NOW, 0).reasons.to_pylist()
    assert sorted(v for v in verdicts if v) == [
        "future_timestamp",
        "malformed",
        "nonpositive_timestamp",
        "out_of_range",
        "wrong_type_timestamp",
    ]


def test_the_span_is_known_where_folders_tell_it(tmp_path: Path) -> None:
    write(tmp_path, f"date={day_of(T0 + DAY)}/part-0.parquet", [T0 + DAY])
    write(tmp_path, f"date={day_of(T0 + 3 * DAY)}/part-0.parquet", [T0 + 3 * DAY])
    assert log_of(tmp_path).span() == (T0 + DAY, T0 + 4 * DAY)
    assert log_of(tmp_path, T0 + DAY + 5).span() == (T0 + DAY + 5, T0 + 4 * DAY)
    write(tmp_path, "loose.parquet", [T0])
    assert log_of(tmp_path, T0).span() == (T0, None)


def test_an_event_in_the_folder_of_a_later_day_comes_with_that_day(tmp_path: Path) -> None:
    write(tmp_path, f"date={day_of(T0 + DAY)}/part-0.parquet", [T0 + 5, T0 + DAY + 5])
    sent = flights(schedule(log_of(tmp_path), Alterations(), FORMS))
    assert [us for us, _, _ in sent] == [T0 + DAY, T0 + DAY + 5]


def test_sources_are_merged_by_time(tmp_path: Path) -> None:
    arrivals = make_source(name="arrivals")
    write(tmp_path, f"date={day_of(T0)}/part-0.parquet", [T0 + 1, T0 + 3])
    (tmp_path / "events" / "arrivals").mkdir()
    (tmp_path / "events" / "arrivals" / "x.jsonl").write_text("".join(f'{{"at":{T0 + i},"flight":"a{i}"}}\n' for i in (0, 2, 4)))
    forms = {**FORMS, "arrivals": record_format(arrivals, KafkaSettings())}
    tables = list(schedule(log_of(tmp_path, sources=[SOURCE, arrivals]), Alterations(), forms))
    assert [s for t in tables for s in t.column("source").to_pylist()] == [1, 0, 1, 0, 1]


def test_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        log_of(tmp_path)
    (tmp_path / "events" / "departures").mkdir(parents=True)
    assert list(schedule(log_of(tmp_path), Alterations(), FORMS)) == []
    write(tmp_path, "x.parquet", [T0])
    assert list(schedule(log_of(tmp_path, T0 + 1, T0 + seconds(1).seconds * 10**6), Alterations(), FORMS)) == []


def test_kinds_are_named_once() -> None:
    assert len(set(JSON_KINDS)) == len(JSON_KINDS) and len(set(AVRO_KINDS)) == len(AVRO_KINDS)
