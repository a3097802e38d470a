"""A subject among the dead letters that wait in the data folder: by payload, record key or header; others' letters still wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.forgetting.subject import Subject
from pipelines.forgetting.waiting_letters import letters_hold, without_letters
from pipelines.sources.broker import FetchResult, KeptRecords, LetterRefused, Original
from pipelines.sources.letter_spool import SpooledLetters, letters_waiting
from transforms.definitions import EventSource, Field, Header, RecordKey

GONE = b"device-to-be-forgotten"
SOURCE = EventSource(
    "pings",
    [
        Field("n", "int64", required=True), Field("device", "string", path=RecordKey()), Field("tenant", "string", path=Header("x-tenant")),
        Field("owner", "string", path=RecordKey("owner.id")),
    ],
    "at", "n", topic="pings",
)  # fmt: skip
OTHER: Original = (b"device-that-stays", b'{"n": "x"}', [("x-tenant", b"7")])


class Refuses:
    """A topic that takes no letter, or, later, all."""

    def __init__(self) -> None:
        self.taken: list[Original] | None = None

    def write(self, topic: str, partition: int, source: str, fetched: FetchResult, rows: Any, reasons: Any, details: Any) -> None:
        if self.taken is None:
            raise LetterRefused("too large")
        assert len(rows) == len(reasons) == len(details) == len(fetched.timestamps_us)
        self.taken += fetched.original(rows)

    def close(self) -> None:
        """Nothing to close."""


def waiting(folder: Path, inner: Refuses, records: list[Original]) -> SpooledLetters:
    spool = SpooledLetters(inner, folder, 30.0, lambda line: None)
    n = len(records)
    fetched = FetchResult(
        pa.nulls(n, pa.binary()), np.arange(n) + 5, np.zeros(n, np.int64), 0, n, False, "id", KeptRecords(records), {5: "cut"}
    )
    spool.write("pings", 0, "pings", fetched, np.arange(n), ["malformed"] * n, [None] * n)
    return spool


@pytest.mark.parametrize(
    ("entity", "about"),
    [
        (f"device={GONE.decode()}", (GONE, b'{"n": "x"}', [])),
        (f"device={GONE.decode()}", (b"k", b'{"device": "' + GONE + b'"', [])),
        (f"device={GONE.decode()}", (b"k", b"\x00\xff" + GONE, [])),
        (f"tenant={GONE.decode()}", (b"k", None, [("x-tenant", GONE)])),
        ("tenant=9", (None, b"{}", [("x-tenant", b"9")])),
        ("owner=o1", (b'{"owner": {"id": "o1"}}', b"[]", [])),
    ],
    ids=["key", "payload cut off", "payload of bytes", "header", "a header of one byte", "a member of the key"],
)
def test_a_letter_about_the_subject_goes_and_the_others_are_written(tmp_path: Path, entity: str, about: Original) -> None:
    """Issue 13, section 3: they stand there as base64, which no search for bytes finds."""
    subject, inner = Subject(Subject.parse([entity]).keys, sources=(SOURCE,)), Refuses()
    spool = waiting(tmp_path, inner, [OTHER, about, OTHER])
    waiting(tmp_path, inner, [about])
    files = sorted(tmp_path.iterdir())
    assert sum(without_letters(path, subject, dry_run=True) for path in files) == 2 and sorted(tmp_path.iterdir()) == files
    assert all(letters_hold(path, subject) for path in files)
    assert sum(without_letters(path, subject, dry_run=False) for path in files) == 2
    assert letters_waiting(tmp_path) == 2 and not any(letters_hold(path, subject) for path in tmp_path.iterdir())
    inner.taken = []
    spool.flush()
    spool.close()  # waits for what is being written
    assert inner.taken == [OTHER, OTHER] and letters_waiting(tmp_path) == 0


def test_what_holds_no_letters_is_left_to_the_search(tmp_path: Path) -> None:
    path, subject = tmp_path / "x-1.json", Subject.parse(["device=long-enough"])
    path.write_text('{"device": "long-enough"')
    assert without_letters(path, subject, dry_run=False) == 0 and letters_hold(path, subject) is None
