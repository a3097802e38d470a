"""What callers send cannot fill the request log, push out the answers of others, or blind those who read it (SECURITY H5)."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import request_log, text_budget
from serving.features import PRESENT, ViewRows
from serving.metrics import Metrics
from serving.models import to_model_inputs
from serving.request_log import LogLimits, RequestLog, files_of, prune, read_requests
from serving.request_rows import merged, to_batches
from serving.text_budget import TextBudget
from tests.unit.test_request_log import AT, DAY_US, asked, value, view


def with_text(request: str, text: str, rows: int = 1) -> Any:
    return asked(request, [1.0] * rows, columns={"origin": [text] * rows, "distance": [100.0] * rows})


def written(folder: Path, records: list[Any], metrics: Metrics | None = None, **limits: Any) -> RequestLog:
    log = RequestLog(folder, LogLimits(**limits), metrics or Metrics())
    log.start()
    for record in records:
        log.add(record)
    log.close()
    return log


def test_the_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    """SECURITY H5: a hundred requests of 1.6 MB each do not wait in memory; what does not fit is counted."""
    metrics = Metrics()
    log = RequestLog(tmp_path, LogLimits(), metrics)  # not started: nothing is taken from the queue
    for i in range(100):
        log.add(with_text(f"r{i}", "a" * 65_536, rows=25))
    assert log._waiting_bytes <= request_log._WAITING_BYTES
    assert value(metrics, "tandem_request_log_dropped_rows_total", reason="full") == 25 * (100 - len(log._waiting)) > 0


def test_long_texts_have_a_tenth_of_the_log_a_day_and_are_cut_beyond_it(tmp_path: Path) -> None:
    """SECURITY H5: the answers are all there, the callers' texts are not."""
    now = [0.0]
    budget = TextBudget(1_000_000, clock=lambda: now[0])
    texts = [chr(97 + i % 26) * 30_000 for i in range(20)]
    told = [budget.fitted(with_text(f"r{i}", text)).columns["origin"][0] for i, text in enumerate(texts)]
    assert told[:3] == texts[:3]
    for text, short in zip(texts[3:], told[3:], strict=True):
        assert short == f"{text[:100]}... (30000 bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()})"
    many = budget.fitted(asked("many", [1.0] * 5_000, columns={"origin": ["a" * 250] * 5_000, "distance": [1.0] * 5_000}))
    assert many.columns["origin"] == ["a" * 250] * 5_000  # an ordinary request never draws on the budget
    now[0] = 86_400.0
    assert budget.fitted(with_text("tomorrow", texts[0])).columns["origin"] == [texts[0]]
    assert budget.fitted(asked("null", [1.0] * 2, columns={"origin": [None, "x" * 90_000]})).columns["origin"][0] is None


def test_seventy_requests_of_random_text_do_not_replace_what_was_logged(tmp_path: Path) -> None:
    """SECURITY H5: as handed in, a fiftieth of its size: the log holds its answers beside them."""
    random = np.random.default_rng(1)
    first = [asked(f"good{i}") for i in range(300)]
    bad = [with_text(f"bad{i}", random.bytes(32_000).hex(), rows=5) for i in range(70)]
    written(tmp_path, [*first, *bad], size=20 << 20, rows=1_000)
    log = read_requests(tmp_path)
    assert {f"good{i}" for i in range(300)} | {f"bad{i}" for i in range(70)} == set(log.column("tandem_request").to_pylist())


def test_young_files_do_not_go_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SECURITY H5: one line in the server's log, a counter, and a warning of the server's readiness."""
    metrics = Metrics()
    with caplog.at_level(logging.ERROR, "tandem.serving"):
        log = written(tmp_path, [asked(f"r{i}", at=AT + i * DAY_US) for i in range(6)], metrics, rows=1, files=2)
    assert "raise serve.request_log_bytes" in log.warning
    assert len([r for r in caplog.records if "the request log is full" in r.getMessage()]) == 1
    assert value(metrics, "tandem_request_log_young_files_total") == value(metrics, "tandem_request_log_expired_files_total") > 0
    assert prune(tmp_path, 0, 0, young_seconds=0.0)[2:] == (2, 0)


def test_asking_for_ever_other_features_does_not_make_a_file_each(tmp_path: Path) -> None:
    """SECURITY H5, the same by another way: files are limited too, so nobody may make one per request."""
    features = [f"f{i}" for i in range(8)]

    def group(names: list[str], number: float) -> ViewRows:
        one = view([number])
        columns = {name: pa.array([number]) for name in names}
        return ViewRows(**{**vars(one), "columns": columns, "statuses": {name: np.array([PRESENT], np.uint8) for name in names}})

    sets = [[f for k, f in enumerate(features) if i >> k & 1] for i in range(1, 256)]
    records = [
        asked(f"r{i}", endpoint="get-online-features", model=None, version=None, predictions=None, groups={"v": group(names, float(i))})
        for i, names in enumerate(sets)
    ]
    written(tmp_path, records)
    (file,) = files_of(tmp_path)
    table = {row["tandem_request"]: row for row in pq.ParquetFile(file).read().to_pylist()}
    for i, names in enumerate(sets):
        assert {f: table[f"r{i}"][f"v__{f}"] for f in features} == {f: float(i) if f in names else None for f in features}
        assert {f for f in features if table[f"r{i}"][f"v__{f}__status"] == "PRESENT"} == set(names)


def test_a_column_that_changed_its_type_is_another_table() -> None:
    one = asked("a", model=None, predictions=None, groups={"origin_traffic": view([3], kind=pa.int64())})
    assert [
        t.num_rows
        for _, t in merged(to_batches([one, asked("b", model=None, predictions=None), asked("c", model=None, predictions=None, at=AT + 1)]))
    ] == [1, 2]


def test_readers_survive_more_text_than_one_array_of_strings_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H5: no ``offset overflow``; here a string array "holds" 1 kB."""
    monkeypatch.setattr(request_log, "_LARGE_BYTES", 1_000)
    written(tmp_path, [with_text(f"r{i}", f"{i}" * 900) for i in range(9)])
    log = read_requests(tmp_path)
    assert log.schema.field("origin").type == pa.large_string()
    assert log.column("origin").to_pylist() == [f"{i}" * 900 for i in range(9)]
    fed = to_model_inputs(log, [("origin", "string"), ("distance", "float32")])
    assert fed["origin"][3, 0] == b"3" * 900


def test_a_size_is_about_what_a_request_takes() -> None:
    small, large = text_budget.size_of(asked()), text_budget.size_of(with_text("x", "a" * 60_000, rows=10))
    assert small < 2_000
    assert 600_000 < large < 3_000_000
