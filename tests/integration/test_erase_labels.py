"""Labels name answers, and only the request log says whose: theirs go first, so that an erasure after one that was killed finds them. So
are manifests marked before the rows go that they lose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting import parquet_parts
from pipelines.forgetting.erase import erase
from pipelines.forgetting.subject import Subject
from tests.integration.orders_world import Orders
from tests.integration.test_erase import table

CITY, OTHER = "city-to-be-forgotten", "city-that-stays"
SUBJECT = Subject.parse([f"city={CITY}"])
ANSWERS = {"one": [CITY, OTHER], "two": [OTHER, CITY, CITY]}
"""Whose the answers of each request are."""


def make(folder: Path) -> Orders:
    """Two files of requests, a third of which no answer is the subject's, and two of labels, each of answers of both requests."""
    made = Orders(folder)
    for name, cities in {**ANSWERS, "three": [OTHER]}.items():
        n = len(cities)
        table(
            made.data / "requests" / "date=2024-01-01" / f"{name}.parquet",
            tandem_request=[name] * n,
            tandem_row=[*range(n)],
            tandem_at=[5] * n,
            city=cities,
        )
    for part, rows in {"a": [("one", 0), ("two", 0), ("two", 1)], "b": [("one", 1), ("two", 2), ("three", 0)]}.items():
        columns: dict[str, list[Any]] = {"tandem_request": [r for r, _ in rows], "tandem_row": [i for _, i in rows], "tandem_at": [5] * 3}
        table(made.data / "labels" / "m" / f"{part}.parquet", **columns, label=[1.0] * 3)
    table(made.data / "events" / "orders" / "e.parquet", order_id=["1", "2"], city=[CITY, OTHER])
    table(made.data / "offline" / "cities" / "run=one" / "p.parquet", city=[CITY, OTHER])
    for name, words in {"one": "", "of-one": "rows of one", "other": ""}.items():
        (made.data / "runs" / name).mkdir(parents=True)
        manifest = {"id": name, "kind": "batch", "status": "complete", "of": words}
        (made.data / "runs" / name / "manifest.json").write_text(json.dumps(manifest))
    return made


def erased(made: Orders) -> list[str]:
    paths = (made.data / "runs").glob("*/manifest.json")
    return sorted(path.parent.name for path in paths if "erased" in json.loads(path.read_text()))


def labels(made: Orders, part: str = "?") -> list[tuple[str, int]]:
    rows = [row for path in (made.data / "labels").rglob(f"{part}.parquet") for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted((row["tandem_request"], row["tandem_row"]) for row in rows)


def cities(made: Orders) -> list[str]:
    tables = [pq.ParquetFile(p).read() for p in made.data.rglob("*.parquet") if "labels" not in p.parts]
    return [city for rows in tables for city in rows["city"].to_pylist()]


def test_killed_before_any_file_is_written_it_leaves_nothing_that_the_next_one_does_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = parquet_parts._rewrite, -1

    def dies(path: Path, masks: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        write(path, masks)

    monkeypatch.setattr(parquet_parts, "_rewrite", dies)
    for step in range(10):
        made, left, died = make(tmp_path / str(step)), step, False
        try:
            erase(made.repo(), SUBJECT)
        except KeyboardInterrupt:
            died = True
        left = -1
        report = erase(made.repo(), SUBJECT)
        assert report.remains == [] == report.unread
        assert labels(made) == [("one", 1), ("three", 0), ("two", 0)], step
        assert {*cities(made)} == {OTHER}, step
        assert erased(made) == ["of-one", "one"], step
        if not died:
            break
    assert step == 6, "two files of labels, two of requests, one of events, one of rows"


def test_labels_that_cannot_be_written_again_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that cannot be read are: their labels stay, and nothing else does."""
    made, write = make(tmp_path / "w"), parquet_parts._rewrite
    (made.data / "labels" / "m" / "cut.parquet").write_bytes(b"PAR1 cut off")

    def refuses(path: Path, masks: Any) -> None:
        if path.name == "b.parquet":
            raise pa.ArrowNotImplementedError("a type that is read alone")
        write(path, masks)

    monkeypatch.setattr(parquet_parts, "_rewrite", refuses)
    report = erase(made.repo(), SUBJECT)
    assert report.unread == ["labels/m/b.parquet", "labels/m/cut.parquet"]
    assert labels(made, "a") == [("two", 0)] and labels(made, "b") == [("one", 1), ("three", 0), ("two", 2)]
    assert {*cities(made)} == {OTHER}
    (said,) = [note for note in report.notes if "labels of the subject's answers may stay" in note]
    assert "labels/m/b.parquet, labels/m/cut.parquet; delete these files" in said
