"""Bad events in batch: each is a dead letter with its bytes, place and reason, and the rest is as if it had never been there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.flights import END, START, World, all_feature_rows, feature_rows, log_events, make_world, of_keys, us
from tests.oracle import rows as oracle_rows
from tests.oracle.compare import differences
from transforms.errors import RejectLimitError

NOON = us(START.replace(day=6, hour=12))
GOOD: dict[str, Any] = {
    "departed_at": NOON,
    "flight_id": "2013-01-06-UA-1-EWR-SFO",
    "carrier": "UA",
    "origin": "EWR",
    "dest": "SFO",
    "tailnum": "N1",
    "dep_delay": 2.0,
    "distance": 2565.0,
}
TIME = pa.timestamp("us", tz="UTC")


def line(**changes) -> bytes:
    """An event as JSON; a change to ``...`` leaves the field out."""
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v is not ...}).encode()


BAD_LINES = {
    "key absent": (line(origin=...), "missing_field"),
    "key null": (line(carrier=None), "missing_field"),
    "time absent": (line(departed_at=...), "missing_timestamp"),
    "time null": (line(departed_at=None), "missing_timestamp"),
    "time zero": (line(departed_at=0), "nonpositive_timestamp"),
    "time negative": (line(departed_at=-NOON), "nonpositive_timestamp"),
    "time far ahead": (line(departed_at="2099-01-01T00:00:00Z"), "future_timestamp"),
    "time no time": (line(departed_at="yesterday"), "wrong_type_timestamp"),
    "text for a number": (line(dep_delay="late"), "wrong_type"),
    "number for a text": (line(dest=7), "wrong_type"),
    "above the range": (line(dep_delay=3000.5), "out_of_range"),
    "below the range": (line(distance=-1), "out_of_range"),
    "not in the domain": (line(origin="LHR"), "not_in_domain"),
    "nan": (line(dep_delay=float("nan")), "nan"),
    "infinite": (line(dep_delay=float("inf")), "infinite"),
    "beyond float64": (line(dep_delay=1).replace(b'"dep_delay": 1', b'"dep_delay": 1e999'), "infinite"),
    "no utf-8": (line(tailnum="N?").replace(b"N?", b"N\xff"), "invalid_utf8"),
    "no json": (b"departed, but when?", "malformed"),
    "no object": (b"[1, 2]", "malformed"),
    "a key twice": (b'{"origin": "EWR", ' + line()[1:], "malformed"),
}
GOOD_LINES = [
    line(flight_id="a"),
    line(flight_id="b", colour="blue"),
    line(flight_id="c", dep_delay=...),
    line(flight_id="d", dep_delay=None),
]
CUT = line(flight_id="cut")[:-30]
"""The last line of a log whose writer died."""

TYPES = {"departed_at": TIME, "dep_delay": pa.float64(), "distance": pa.float64()}
BAD_COLUMNS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "key-null": ({"origin": None}, {}, "missing_field"),
    "key-absent": ({"origin": ...}, {}, "missing_field"),
    "time-absent": ({"departed_at": ...}, {}, "missing_timestamp"),
    "time-null": ({"departed_at": None}, {}, "missing_timestamp"),
    "time-zero": ({"departed_at": 0}, {}, "nonpositive_timestamp"),
    "time-negative": ({"departed_at": -1}, {"departed_at": pa.int64()}, "nonpositive_timestamp"),
    "time-far-ahead": ({"departed_at": NOON * 2}, {}, "future_timestamp"),
    "time-no-time": ({"departed_at": 1.5}, {"departed_at": pa.float64()}, "wrong_type_timestamp"),
    "wrong-type": ({"dep_delay": "late"}, {"dep_delay": pa.string()}, "wrong_type"),
    "out-of-range": ({"dep_delay": -1e9}, {}, "out_of_range"),
    "domain": ({"origin": "LHR"}, {}, "not_in_domain"),
    "nan": ({"dep_delay": float("nan")}, {}, "nan"),
    "inf": ({"dep_delay": float("-inf")}, {}, "infinite"),
    "utf8": ({"tailnum": b"N\xff"}, {"tailnum": pa.binary()}, "invalid_utf8"),
}


def write(path: Path, events: list[dict], types: dict | None = None) -> None:
    kinds = {**TYPES, **(types or {})}
    names = [n for n in GOOD if events[0].get(n) is not ...]
    names += [n for n in events[0] if n not in GOOD]
    columns = {n: pa.array([e[n] for e in events], kinds.get(n, pa.string())) for n in names}
    pq.write_table(pa.table(columns), path)


def day(world: World, source: str = "departures") -> Path:
    return world.data / "events" / source / "date=2013-01-06"


@pytest.fixture(scope="module")
def spoilt(logs, tmp_path_factory):
    """A run over logs in which every kind of bad event lies beside good ones."""
    world = make_world(tmp_path_factory.mktemp("spoilt"), logs)
    bad = [payload for payload, _ in BAD_LINES.values()]
    (day(world) / "mixed.jsonl").write_bytes(b"\n".join([*GOOD_LINES[:2], *bad, b"", *GOOD_LINES[2:], CUT]))
    for i, (name, (changes, types, _)) in enumerate(BAD_COLUMNS.items()):
        write(day(world) / f"bad-{i:02d}-{name}.parquet", [{**GOOD, **changes}], types)
    write(day(world) / "extra.parquet", [{**GOOD, "flight_id": "e", "colour": "blue"}])
    write(day(world) / "optional.parquet", [{**GOOD, "flight_id": "f", "dep_delay": ...}])
    whole = (day(world) / "part-0.parquet").read_bytes()
    (day(world) / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    (day(world) / "empty.parquet").write_bytes(b"")
    (day(world) / "empty.jsonl").write_bytes(b"")
    pq.write_table(pq.read_table(day(world) / "part-0.parquet", partitioning=None).slice(0, 0), day(world) / "no-rows.parquet")
    return world, world.run()


@pytest.fixture(scope="module")
def letters(spoilt) -> list[dict]:
    folder = spoilt[1].run.folder / "dead_letters"
    assert [p.name for p in folder.iterdir()] == ["departures"]
    return [row for p in sorted(folder.rglob("*.parquet")) for row in pq.read_table(p, partitioning=None).to_pylist()]


def accepted() -> list[dict]:
    """The planted events that count."""
    nulls = {"c", "d", "f"}
    return [{**GOOD, "flight_id": i, "dep_delay": None if i in nulls else 2.0} for i in "abcdef"]


def test_rows_equal_the_oracle_over_the_good_events(spoilt):
    world, result = spoilt
    events = log_events(world.data, "departures", lambda name: name == "part-0.parquet") + accepted()
    for name, keys in (("carrier_traffic", [("UA",)]), ("origin_traffic", [("EWR",)])):
        group = world.repo().groups[name]
        upto = us(END) if name == "carrier_traffic" else NOON + 4 * 3_600_000_000
        after = us(START) if name == "carrier_traffic" else NOON - 3_600_000_000
        want = oracle_rows(of_keys(events, group, keys), group, after, upto)
        got = of_keys(feature_rows(world.data, group, result.run.id), group, keys)
        got = [r for r in got if after < r["event_timestamp"] - group.delay_us <= upto]
        assert len(want) > 50
        assert differences(got, want) == []


def test_all_other_rows_are_as_without_the_bad_events(spoilt, logs, tmp_path):
    world = make_world(tmp_path, logs)
    write(day(world) / "good.parquet", accepted())
    clean = world.run()
    assert clean.run.manifest["rejected"] == {}
    assert all_feature_rows(world, clean.run.id) == all_feature_rows(spoilt[0], spoilt[1].run.id)


def test_rejected_lines_keep_bytes_file_row_and_reason(letters):
    got = {r["row"]: r for r in letters if r["file"] == "events/departures/date=2013-01-06/mixed.jsonl"}
    for row, (name, (payload, reason)) in enumerate(BAD_LINES.items(), start=2):
        assert (got[row]["payload"], got[row]["reason"], got[row]["source"]) == (payload, reason, "departures"), name
        assert got[row]["detail"] and "\n" not in got[row]["detail"]
    last = 2 + len(BAD_LINES) + 1 + 2  # two good lines, the bad ones, a blank one, two good ones
    assert (got[last]["payload"], got[last]["reason"]) == (CUT, "malformed")
    assert len(got) == len(BAD_LINES) + 1


def test_rejected_parquet_rows_keep_their_values_file_row_and_reason(letters):
    for i, (name, (changes, _, reason)) in enumerate(BAD_COLUMNS.items()):
        (got,) = [r for r in letters if r["file"] == f"events/departures/date=2013-01-06/bad-{i:02d}-{name}.parquet"]
        assert (got["row"], got["reason"]) == (0, reason), name
        if name == "utf8":
            assert b'"N\xff"' in got["payload"]
            continue
        held = json.loads(got["payload"])
        want = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
        assert str(held) == str(want), name


def test_files_that_cannot_be_read_are_one_dead_letter_each(letters):
    got = {Path(r["file"]).name: r for r in letters if r["reason"] == "unreadable_file"}
    assert sorted(got) == ["empty.parquet", "truncated.parquet"]
    assert all((r["row"], r["payload"]) == (None, None) for r in got.values())
    assert "0 bytes" in got["empty.parquet"]["detail"]


def test_the_manifest_counts_per_source_and_reason(spoilt, letters):
    manifest = spoilt[1].run.manifest
    assert manifest["rejected"] == {f"departures/{r}": n for r, n in sorted(Counter(x["reason"] for x in letters).items())}
    assert sum(manifest["rejected"].values()) == len(BAD_LINES) + 1 + len(BAD_COLUMNS) + 2
    assert {f["file"].split("/")[-1] for f in manifest["inputs"]["departures"]} >= {"mixed.jsonl", "empty.parquet", "truncated.parquet"}


def test_above_the_limit_nothing_becomes_visible(logs, tmp_path):
    world = make_world(tmp_path, logs)
    (day(world) / "bad.jsonl").write_bytes(b"\n".join([BAD_LINES["nan"][0]] * 400))
    with pytest.raises(
        RejectLimitError,
        match=r"^400 of \d+ events were rejected \(4\.\d+%, limit 1\.00%\), most of them departures/nan \(dep_delay 400\); see ",
    ) as e:
        world.run()
    assert "\n" not in str(e.value) and "batch.max_reject_share" in str(e.value)
    assert world.visible() == {}
    (run,) = (world.data / "runs").glob("batch-*")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed" and "400 of" in manifest["error"]
    assert manifest["rejected"] == {"departures/nan": 400}
    (file,) = (run / "dead_letters").rglob("*.parquet")
    assert pq.ParquetFile(file).metadata.num_rows == 400
    # With a limit that allows it, the same logs make a run.
    world.configure(max_reject_share=0.05)
    assert world.run().run.status == "complete"


def test_a_log_of_nothing_but_empty_files(logs, tmp_path):
    world = make_world(tmp_path, logs)
    for path in (world.data / "events" / "weather").rglob("*.parquet"):
        path.unlink()
        path.with_suffix(".jsonl").write_bytes(b"")
    result = world.run()
    assert result.run.manifest["rows"].get("origin_weather", 0) == 0
    assert "origin_weather" not in world.visible() and len(world.visible()) == 4
