"""What local services leave below ``data/services``: read as 0.1 wrote it, refused of a newer Tandem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake.process_identity import ProcessId
from pipelines.services import local
from pipelines.services import service_state as state
from transforms.errors import DataError

GONE: dict[str, Any] = {"pid": 4_000_000, "started": "another start", "host": ""}
OF_BEFORE: dict[str, Any] = {
    "service": "kafka", "address": "127.0.0.1:1", "folder": "f", "log": "l", "keeper": GONE, "process": GONE,
    "since": "2024-03-04T00:00:00Z", "ended": None,
}  # fmt: skip


def put(data: Path, said: object) -> Path:
    file = data / "services" / "kafka.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(said if isinstance(said, str) else json.dumps(said))
    return file


def test_a_state_of_before_is_read_and_written_with_its_format(tmp_path: Path) -> None:
    file = put(tmp_path, OF_BEFORE)
    found = state.read(tmp_path, "kafka")
    assert found is not None and found.daemon == found.process == ProcessId(**GONE) and not found.alive
    assert (found.service, found.address, found.since, found.ended) == ("kafka", "127.0.0.1:1", "2024-03-04T00:00:00Z", None)
    state.write(tmp_path, found)
    kept = json.loads(file.read_text())
    assert kept["format"] == 1 and kept["daemon"] == GONE and "keeper" not in kept
    assert state.read(tmp_path, "kafka") == found


def test_one_that_cannot_be_read_is_none_and_one_of_a_newer_tandem_is_refused(tmp_path: Path) -> None:
    for said in ("", "[]", {**OF_BEFORE, "process": None}, {**OF_BEFORE, "process": {"pid": 1, "x": 2}}, {**OF_BEFORE, "address": 3}):
        file = put(tmp_path, said)
        assert state.read(tmp_path, "kafka") is None
    put(tmp_path, {**OF_BEFORE, "format": 2})
    for ask in (lambda: state.read(tmp_path, "kafka"), lambda: local.status(tmp_path), lambda: local.down(tmp_path)):
        with pytest.raises(DataError) as error:
            ask()
        assert str(error.value) == f"{file} is of a newer Tandem (format 2, this one knows 1); use that one"
