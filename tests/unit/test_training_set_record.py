"""The manifest of a training set: one form on disk, older ones read, a newer one refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.definition import Column
from pipelines.training.training_set_record import Split, TrainingSetRecord
from transforms.errors import DataError

OF_BEFORE: dict[str, Any] = {
    "id": "0123456789abcdef",
    "model": {"name": "delay", "label": "late", "weight": None, "split": [0.7, 0.85], "label_delay": 0},
    "features": ["depot_load:count_1h"],
    "fingerprints": {"depot_load": "ab"},
    "spine_sha256": "cd",
    "borders_us": [1, 2],
    "values_sha256": "ef",
    "created": "2024-03-04T00:00:00+00:00",
    "columns": [["carrier", "string", "", ""], ["depot_load__count_1h", "float32", "depot_load", "count_1h"]],
    "borders": ["2024-03-01 00:00:00Z", "2024-03-02 00:00:00Z"],
    "splits": {"train": {"rows": 7, "positives": 2}, "eval": {"rows": 2, "positives": 1}, "test": {"rows": 1, "positives": 0}},
    "left_out_at_borders": 3,
    "null_share": {"carrier": 0.25},
}
"""As 0.1 wrote it."""


def written(folder: Path, said: object) -> Path:
    (folder / "manifest.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return folder


def test_a_manifest_of_before_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    record = TrainingSetRecord.load(written(tmp_path, OF_BEFORE))
    assert record is not None
    assert (record.label, record.rows, record.splits["train"]) == ("late", {"train": 7, "eval": 2, "test": 1}, Split(7, 2))
    assert record.columns == [Column("carrier", "string"), Column("depot_load__count_1h", "float32", "depot_load", "count_1h")]
    assert list(record.to_dict().items()) == [("format", 1), *OF_BEFORE.items()]
    used = {"busy": {"view": "depot_load"}}
    again = TrainingSetRecord.load(written(tmp_path, {**OF_BEFORE, "projections": used, "erased": [{"what": "rows"}]}))
    assert again is not None and again.projections == used and again.to_dict()["projections"] == used


@pytest.mark.parametrize("text", ["", "[]", '{"id": "0'])
def test_what_is_torn_is_none(text: str, tmp_path: Path) -> None:
    assert TrainingSetRecord.load(tmp_path / "none") is None
    assert TrainingSetRecord.load(written(tmp_path, text)) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"format": 2}, r"manifest\.json is of a newer Tandem \(format 2, this one knows 1\); use that one"),
        ({"format": "1"}, "format is '1', not a number; it is no training set of Tandem's"),
        ({"borders_us": "now"}, "borders_us is 'now', not of type list; it is no training set of Tandem's"),
        ({"columns": [["carrier"]]}, r"columns is \[\['carrier'\]\]; it is no training set of Tandem's"),
        ({"splits": {"train": {"rows": 1}}}, "splits is .*; it is no training set of Tandem's"),
    ],
)
def test_a_newer_or_foreign_one_is_refused_in_a_line(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why) as error:
        TrainingSetRecord.load(written(tmp_path, {**OF_BEFORE, **said}))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert TrainingSetRecord.load_known(tmp_path) is None
