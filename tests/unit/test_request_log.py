"""The request log: exact, bounded, sampled, and never in the way."""

from __future__ import annotations

import os
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from serving import request_log
from serving.features import NOT_FOUND, NULL, OUTSIDE_MAX_AGE, PRESENT, ViewRows
from serving.metrics import Metrics
from serving.models import to_model_inputs
from serving.request_log import COMMON, LogLimits, RequestLog, files_of, prune, read_requests
from serving.request_rows import RequestRecord, sampled, to_batches
from tests.waiting import until
from transforms.definitions import ARROW_TYPES
from transforms.errors import DataError

DAY_US = 86_400_000_000
AT = 20_000 * DAY_US + 12 * 3_600_000_000
AS_OF = 15_796 * DAY_US
ODD = [0.1 + 0.2, -0.0, 5e-324, struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf8\x7f")[0]]


def view(values: list[float | None], *, name: str = "origin_traffic", status: int = PRESENT, kind: pa.DataType | None = None) -> ViewRows:
    n = len(values)
    own = [NULL if v is None and status == PRESENT else status for v in values]
    return ViewRows(
        view=name,
        columns={"mean_1h": pa.array(values, type=kind or pa.float64())},
        statuses={"mean_1h": np.array(own, np.uint8)},
        row_status=np.full(n, status, np.uint8),
        timestamps_us=np.full(n, 0 if status == NOT_FOUND else AS_OF - 240_000_001, np.int64),
        ages=np.full(n, np.nan if status == NOT_FOUND else 240.000001),
        fingerprints=["f" * 64 if status == PRESENT else None] * n,
        revisions=[None if status == NOT_FOUND else 7] * n,
        as_of_us=AS_OF,
    )


def asked(request: str = "a", values: list[float | None] | None = None, at: int = AT, **changes: Any) -> RequestRecord:
    values = [1.5] if values is None else values
    n = len(values)
    given: dict[str, Any] = {
        "request_id": request,
        "at_us": at,
        "as_of_us": AS_OF,
        "endpoint": "predict",
        "rows": n,
        "columns": {"origin": ["JFK"] * n, "distance": [100.0] * n},
        "types": {"origin": pa.string(), "distance": pa.float64()},
        "groups": {"origin_traffic": view(values)},
        "model": "delay",
        "version": 3,
        "run": "run-3",
        "predictions": [0.25] * n,
    }
    return RequestRecord(**{**given, **changes})


@pytest.fixture
def started() -> Any:
    logs: list[RequestLog] = []

    def start(folder: Path, metrics: Metrics | None = None, **limits: Any) -> RequestLog:
        log = RequestLog(folder, LogLimits(**limits), metrics or Metrics())
        log.start()
        logs.append(log)
        return log

    yield start
    for log in logs:
        log.close()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_what_was_answered_is_read_back_bit_by_bit(tmp_path: Path, started: Any) -> None:
    log = started(tmp_path)
    log.add(asked("a", ODD, predictions=[0.1, 0.2, 1 / 3, 0.7]))
    log.add(asked("b", [None], groups={"origin_traffic": view([None], status=OUTSIDE_MAX_AGE)}, at=AT + 1))
    log.add(asked("c", [None], groups={"origin_traffic": view([None], status=NOT_FOUND)}, at=AT + 2))
    log.close()
    table = read_requests(tmp_path)
    assert table.column("tandem_request").to_pylist() == ["a"] * 4 + ["b", "c"]
    assert table.column("tandem_row").to_pylist() == [0, 1, 2, 3, 0, 0]
    assert table.column("tandem_prediction").to_pylist()[:4] == [0.1, 0.2, 1 / 3, 0.7]
    served = table.column("origin_traffic__mean_1h").combine_chunks().slice(0, 4).to_numpy()
    assert served.tobytes() == np.array(ODD).tobytes()
    assert table.column("origin_traffic__mean_1h__status").to_pylist() == ["PRESENT"] * 4 + ["OUTSIDE_MAX_AGE", "NOT_FOUND"]
    assert table.column("origin_traffic__tandem_status").to_pylist()[3:] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
    assert table.column("origin_traffic__event_timestamp").cast(pa.int64()).to_pylist()[3:] == [AS_OF - 240_000_001] * 2 + [None]
    assert table.column("origin_traffic__tandem_age").to_pylist()[3:] == [240.000001] * 2 + [None]
    assert table.column("origin_traffic__tandem_revision").to_pylist()[3:] == [7, 7, None]
    assert table.column("origin_traffic__tandem_fingerprint").to_pylist()[3:] == ["f" * 64, None, None]
    assert table.column("tandem_at").cast(pa.int64()).to_pylist()[3:] == [AT, AT + 1, AT + 2]
    assert set(table.column("tandem_as_of").cast(pa.int64()).to_pylist()) == {AS_OF}
    assert set(table.column("tandem_version").to_pylist()) == {3}
    assert [p.parent.name for p in files_of(tmp_path)] == ["date=2024-10-04"]


def test_a_file_spends_nothing_on_nulls_and_repetitions_that_it_has_not(tmp_path: Path, started: Any) -> None:
    """A column has levels if it may have nulls, and one of floats a dictionary where few values repeat; to who reads them, one by one or
    the folder as a whole, they are the same."""
    some: dict[str, list[float | None]] = {
        "own": [i / 7 for i in range(1000)],
        "few": [float(i % 5) for i in range(1000)],
        "null": [None] * 500 + [i / 7 for i in range(500)],
    }
    for name, values in some.items():
        log = started(tmp_path / name)
        log.add(asked(name, values))
        log.close()
        (path,) = files_of(tmp_path / name)
        file = pq.ParquetFile(path)
        assert file.schema_arrow.field("origin_traffic__mean_1h").nullable
        assert not file.schema_arrow.field("tandem_request").nullable
        chunks = [file.metadata.row_group(0).column(i) for i in range(file.metadata.num_columns)]
        (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema == "origin_traffic__mean_1h"]
        assert any("DICTIONARY" in encoding for encoding in chunk.encodings) == (name != "own")
        if name != "own":
            path.rename(files_of(tmp_path / "own")[0].with_name(path.name))
    whole = pq.read_table(files_of(tmp_path / "own")[0].parent, partitioning=None)
    pq.write_table(whole, tmp_path / "whole.parquet")
    for read in (read_requests(tmp_path / "own"), pq.read_table(tmp_path / "whole.parquet")):
        for name, values in some.items():
            assert read.filter(pc.equal(read.column("tandem_request"), name)).column("origin_traffic__mean_1h").to_pylist() == values


def test_the_log_gives_way_between_its_columns() -> None:
    """Who answers waits for the interpreter while a batch is made."""
    gave_way: list[None] = []
    ((_, batch),) = to_batches([asked("one", [1.0]), asked("two", [2.0])], lambda: gave_way.append(None))
    assert len(gave_way) >= batch.num_columns - len(COMMON)


def test_words_are_strings_to_every_reader(tmp_path: Path, started: Any) -> None:
    """They are written by their numbers: neither that nor which batch a row came with is to be seen, whatever a column is called."""
    log = started(tmp_path)
    alone: dict[str, Any] = {"model": None, "version": None, "run": None, "predictions": None}
    named: dict[str, Any] = {"columns": {"ARROW:schema": ["JFK"]}, "types": {"ARROW:schema": pa.string()}}
    for i in range(request_log._AT_ONCE + 1):
        group = view([1.5], status=PRESENT if i % 2 else NOT_FOUND)
        log.add(asked(f"r{i}", [1.5], groups={"origin_traffic": group}, endpoint=f"e{i % 3}", **alone, **named))
    log.add(asked("other", [None], groups={"aircraft": view([None], name="aircraft")}, endpoint="e9", **alone, **named))
    log.close()
    (path,) = files_of(tmp_path)
    parquet = pq.ParquetFile(path)
    assert not [field.name for field in parquet.schema_arrow if pa.types.is_dictionary(field.type)]
    assert parquet.metadata.metadata is None or b"ARROW:schema" not in parquet.metadata.metadata
    columns = ["tandem_request", "tandem_endpoint", "origin_traffic__tandem_status", "aircraft__mean_1h__status", "ARROW:schema"]
    whole: list[tuple[Any, ...]] = [
        (f"r{i}", f"e{i % 3}", "PRESENT" if i % 2 else "NOT_FOUND", None, "JFK") for i in range(request_log._AT_ONCE + 1)
    ]
    whole.append(("other", "e9", None, "NULL", "JFK"))
    found = parquet.read(columns)
    assert found.schema.types == [pa.string()] * 5
    assert sorted(zip(*(found.column(name).to_pylist() for name in columns))) == sorted(whole)
    names = ", ".join(f'"{name}"' for name in columns)
    assert sorted(duckdb.sql(f"select {names} from read_parquet('{path}')").fetchall()) == sorted(whole)


def test_columns_are_made_of_many_requests_at_once_and_of_few_at_a_look(
    tmp_path: Path, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch costs about as much for one request as for fifty."""
    monkeypatch.setattr(request_log, "_LOOK_SECONDS", 3_600.0)
    log = started(tmp_path, seconds=1e6)
    for i in range(request_log._AT_ONCE + 1):
        log.add(asked(f"r{i}"))
    until(lambda: log._kept_rows > 0)
    until(lambda: len(log._waiting) <= 1)
    log.add(asked("later"))
    log.close()
    found = read_requests(tmp_path).column("tandem_request").to_pylist()
    assert sorted(found) == sorted([*(f"r{i}" for i in range(request_log._AT_ONCE + 1)), "later"])


def test_the_docstring_names_every_column_and_the_columns_are_the_models_inputs(tmp_path: Path, started: Any) -> None:
    log = started(tmp_path)
    log.add(asked())
    log.close()
    (path,) = files_of(tmp_path)
    names = pq.ParquetFile(path).schema_arrow.names
    documented = request_log.__doc__ or ""
    for name in names:
        told = name.replace("origin_traffic__", "V__").replace("mean_1h", "F")
        assert told in documented or name in ("origin", "distance"), name
    inputs = [("origin", "string"), ("distance", "float32"), ("origin_traffic__mean_1h", "float32")]
    fed = to_model_inputs(read_requests(tmp_path), inputs)
    assert fed["origin_traffic__mean_1h"].tolist() == [[1.5]]


def test_kinds_of_requests_are_one_log_for_our_reader_and_for_duckdb(tmp_path: Path, started: Any) -> None:
    log = started(tmp_path)
    log.add(asked("a"))
    features: dict[str, Any] = {"predictions": None, "model": None, "version": None, "run": None, "endpoint": "get-online-features"}
    other: dict[str, Any] = {
        "columns": {"tailnum": ["N1"]},
        "types": {"tailnum": pa.string()},
        "groups": {"aircraft": view([2.5], name="aircraft")},
    }
    log.add(asked("b", at=AT + 1, **features, **other))
    log.add(asked("c", at=AT + DAY_US))
    log.add(asked("d", at=AT + DAY_US + 1, predictions=[[0.5, 0.25]], model="two"))
    log.close()
    assert len(files_of(tmp_path)) == 4
    with pytest.raises(DataError, match="tandem_prediction"):
        read_requests(tmp_path)
    (vector,) = [p for p in files_of(tmp_path) if pa.types.is_list(pq.ParquetFile(p).schema_arrow.field("tandem_prediction").type)]
    vector.unlink()
    table = read_requests(tmp_path)
    assert table.column("tandem_request").to_pylist() == ["a", "b", "c"]
    assert table.column("aircraft__mean_1h").to_pylist() == [None, 2.5, None]
    assert table.column("tandem_model").to_pylist() == ["delay", None, "delay"]
    assert read_requests(tmp_path, since_us=AT + 1).column("tandem_request").to_pylist() == ["b", "c"]
    sql = f"""SELECT tandem_request, origin_traffic__mean_1h, aircraft__mean_1h, date::VARCHAR
              FROM read_parquet('{tmp_path}/*/*.parquet', union_by_name=true) ORDER BY tandem_at"""
    assert duckdb.sql(sql).fetchall() == [
        ("a", 1.5, None, "2024-10-04"),
        ("b", None, 2.5, "2024-10-04"),
        ("c", 1.5, None, "2024-10-05"),
    ]


def test_a_feature_that_changed_its_type_is_read_as_a_number(tmp_path: Path, started: Any) -> None:
    log = started(tmp_path)
    log.add(asked("a", groups={"origin_traffic": view([3], kind=pa.int64())}))
    log.add(asked("b", at=AT + 1))
    log.close()
    assert read_requests(tmp_path).column("origin_traffic__mean_1h").to_pylist() == [3.0, 1.5]


def test_no_log_is_no_rows(tmp_path: Path) -> None:
    assert read_requests(tmp_path / "none").num_rows == 0
    (tmp_path / "date=2024-01-01").mkdir()
    (tmp_path / "date=2024-01-01" / "x.parquet").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read"):
        read_requests(tmp_path)


def test_the_sample_is_decided_by_the_id() -> None:
    ids = [f"request-{i}" for i in range(20_000)]
    tenth = {i for i in ids if sampled(i, 0.1)}
    assert tenth == {i for i in ids if sampled(i, 0.1)} <= {i for i in ids if sampled(i, 0.3)}
    assert 0.09 < len(tenth) / len(ids) < 0.11
    assert all(sampled(i, 1.0) for i in ids) and not any(sampled(i, 0.0) for i in ids)


def test_only_the_sample_is_written(tmp_path: Path, started: Any) -> None:
    log = started(tmp_path, sample=0.2)
    for i in range(200):
        log.add(asked(f"r{i}"))
    log.close()
    assert set(read_requests(tmp_path).column("tandem_request").to_pylist()) == {f"r{i}" for i in range(200) if sampled(f"r{i}", 0.2)}


def test_files_close_after_rows_and_after_seconds(tmp_path: Path, started: Any) -> None:
    by_rows = started(tmp_path / "rows", rows=10)
    for i in range(25):
        by_rows.add(asked(f"r{i}", [1.0] * 2))
    until(lambda: sum(pq.ParquetFile(p).metadata.num_rows for p in files_of(tmp_path / "rows")) >= 10)
    by_seconds = started(tmp_path / "seconds", seconds=0.01)
    by_seconds.add(asked())
    until(lambda: len(files_of(tmp_path / "seconds")) == 1)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real, metrics = threading.Event(), RequestLog._file, Metrics()
    monkeypatch.setattr(RequestLog, "_file", lambda *args: gate.wait(30) and real(*args))  # a disk that takes its time
    log = started(tmp_path, metrics, rows=1)
    log.add(asked("first"))
    until(lambda: not log._waiting)
    begun = time.monotonic()
    for i in range(request_log._WAITING_REQUESTS + 500):
        log.add(asked(f"r{i}"))
    assert time.monotonic() - begun < 5
    dropped = value(metrics, "tandem_request_log_dropped_rows_total", reason="full")
    assert dropped >= 500
    gate.set()
    log.close()
    assert read_requests(tmp_path).num_rows == 1 + request_log._WAITING_REQUESTS + 500 - dropped
    log.add(asked("after the end"))
    assert value(metrics, "tandem_request_log_dropped_rows_total", reason="full") == dropped + 1


def test_one_huge_request_does_not_pass_the_bound_in_rows(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, LogLimits(), Metrics())  # not started: nothing is taken from the queue
    for i in range(30):
        log.add(asked(f"r{i}", [1.0] * 10_000))
    assert log._waiting_rows <= request_log._WAITING_ROWS + 10_000


def test_a_folder_that_cannot_be_written_loses_rows_and_is_taken_again(tmp_path: Path, started: Any, caplog: Any) -> None:
    metrics, folder = Metrics(), tmp_path / "log"
    folder.write_text("in the way")
    log = started(folder, metrics, seconds=0.01)
    log.add(asked("a", [1.0, 2.0]))
    until(lambda: value(metrics, "tandem_request_log_dropped_rows_total", reason="write") == 2)
    log.add(asked("b"))
    until(lambda: value(metrics, "tandem_request_log_dropped_rows_total", reason="write") == 3)
    assert len([r for r in caplog.records if "rows are dropped" in r.getMessage()]) == 1
    folder.unlink()
    log.add(asked("c"))
    until(lambda: value(metrics, "tandem_request_log_rows_total") == 1)
    assert read_requests(folder).column("tandem_request").to_pylist() == ["c"]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    metrics = Metrics()
    monkeypatch.setattr(os, "fsync", full)
    log = started(tmp_path, metrics, seconds=0.01)
    log.add(asked())
    until(lambda: value(metrics, "tandem_request_log_dropped_rows_total", reason="write") == 1)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_deleted_folder_is_made_again(tmp_path: Path, started: Any) -> None:
    import shutil

    log = started(tmp_path / "log", seconds=0.01)
    log.add(asked("a"))
    until(lambda: len(files_of(tmp_path / "log")) == 1)
    shutil.rmtree(tmp_path / "log")
    log.add(asked("b"))
    until(lambda: len(files_of(tmp_path / "log")) == 1)


def test_a_request_that_makes_no_table_is_dropped_alone(tmp_path: Path, started: Any) -> None:
    metrics = Metrics()
    log = started(tmp_path, metrics)
    twice = {"origin": ["JFK"], "origin_traffic__mean_1h": ["x"]}
    log.add(asked("bad", columns=twice, types=dict.fromkeys(twice, pa.string())))
    until(lambda: value(metrics, "tandem_request_log_dropped_rows_total", reason="defect") == 1)
    log.add(asked("good"))
    log.close()
    assert read_requests(tmp_path).column("tandem_request").to_pylist() == ["good"]


def test_the_oldest_files_go_first(tmp_path: Path, started: Any) -> None:
    metrics = Metrics()
    log = started(tmp_path, metrics, rows=1, files=3)
    for i in range(8):
        log.add(asked(f"r{i}", at=AT + i * DAY_US))
        until(lambda i=i: value(metrics, "tandem_request_log_rows_total") == i + 1)  # type: ignore[misc]
    log.close()
    assert read_requests(tmp_path).column("tandem_request").to_pylist() == ["r5", "r6", "r7"]
    assert len(list(tmp_path.iterdir())) == 3  # emptied days are gone too
    assert value(metrics, "tandem_request_log_expired_files_total") == 5
    assert value(metrics, "tandem_request_log_files") == 3
    sizes = [p.stat().st_size for p in files_of(tmp_path)]
    assert prune(tmp_path, sum(sizes) - 1, 100)[:2] == (sum(sizes[1:]), 2)


def test_what_a_killed_server_left_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "date=2024-01-01"
    folder.mkdir()
    (folder / ".old.parquet.tmp").write_bytes(b"x")
    (folder / "a.parquet").write_bytes(b"x")
    assert prune(tmp_path, 100, 100)[1] == 1 and (folder / ".old.parquet.tmp").exists()
    assert prune(tmp_path, 100, 100, now=lambda: time.time() + 4000)[1] == 1
    assert [p.name for p in folder.iterdir()] == ["a.parquet"]


def test_timestamps_of_requests_and_features_asked_for_by_our_own_names() -> None:
    own = view([1.0])
    own = replace(own, columns={**own.columns, "tandem_revision": pa.array([7], pa.int64())})
    own.statuses["tandem_revision"] = np.array([PRESENT], np.uint8)
    types = {"origin": pa.string(), "asked": ARROW_TYPES["timestamp"]}
    ((_, batch),) = to_batches([asked(groups={"origin_traffic": own}, columns={"origin": ["JFK"], "asked": [AT]}, types=types)])
    assert batch.schema.names.count("origin_traffic__tandem_revision") == 1
    assert batch.column(batch.schema.get_field_index("asked")).cast(pa.int64()).to_pylist() == [AT]
