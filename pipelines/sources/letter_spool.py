"""Dead letters that their topic does not take: kept in the data folder until it does, so that none of them stops a stream for ever."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.lake.files import write_text
from pipelines.sources.broker import BrokerAway, DeadLetterWriter, FetchResult, Ints, KeptRecords, LetterRefused, Original
from transforms.errors import StoreError

__all__ = ["SpooledLetters", "keep_waiting", "letters_waiting", "waiting_records"]

AGAIN_SECONDS = 30.0
"""How often letters that wait are tried again."""


def letters_waiting(folder: Path) -> int:
    """How many letters wait in a folder of kept ones."""
    return sum(int(path.stem.rpartition("-")[2]) for path in folder.glob("[!.]*-*.json"))


class SpooledLetters(DeadLetterWriter):
    """Writes by ``inner``; what its broker refuses (LetterRefused) at once, and what nobody has taken for ``patience`` seconds, goes to a
    file of ``folder`` instead, forced to disk, and is written when the topic takes letters again. ``say`` hears of it.

    So a write returns when its letters outlive a crash, here or there. What is wrong for good (no such topic can be, no right to) is
    still the StoreError that ``inner`` raises. Letters may be written twice: after a crash, or by two processes.
    """

    def __init__(self, inner: DeadLetterWriter, folder: Path, patience: float, say: Callable[[str], None]) -> None:
        self.inner, self.folder, self.patience, self.say = inner, folder, patience, say
        self.away_since: float | None = None
        self.tried = float("-inf")
        self.clock = time.monotonic

    def write(
        self,
        topic: str,
        partition: int,
        source_name: str,
        fetched: FetchResult,
        rows: Ints,
        reasons: Sequence[str],
        details: Sequence[str | None],
    ) -> None:
        """See :class:`DeadLetterWriter`. Raises BrokerAway within the patience, and while the folder's disk takes none; StoreError."""
        if not len(rows):
            return
        try:
            self.inner.write(topic, partition, source_name, fetched, rows, reasons, details)
            self.away_since = None
        except LetterRefused as error:
            self._keep(topic, partition, source_name, fetched, rows, reasons, details, error)
        except BrokerAway as error:
            now = self.clock()
            self.away_since = now if self.away_since is None else self.away_since
            if now - self.away_since < self.patience:
                raise
            self._keep(topic, partition, source_name, fetched, rows, reasons, details, error)

    def flush(self) -> None:
        """Now and then: try to write what waits."""
        now = self.clock()
        if now - self.tried < AGAIN_SECONDS:
            return
        self.tried = now
        waiting = sorted(self.folder.glob("[!.]*-*.json")) if self.folder.is_dir() else []
        written = 0
        for path in waiting:
            try:
                kept = json.loads(path.read_text("utf-8"))
                records = _records(kept)
                n, cut = len(records), {int(o): str(line) for o, line in kept["refused"].items()}
                fetched = FetchResult(
                    pa.nulls(n, pa.binary()), np.array(kept["offsets"], np.int64), np.array(kept["stamps_us"], np.int64), 0, 0, False,
                    kept["identity"], KeptRecords(records), cut,
                )  # fmt: skip
                self.inner.write(kept["topic"], kept["partition"], kept["source"], fetched, np.arange(n), kept["reasons"], kept["details"])
            except (StoreError, FileNotFoundError):
                break
            path.unlink(missing_ok=True)
            written += n
        if written:
            self.say(f"{written} dead letters that waited are in their topic now")

    def _keep(
        self, topic: str, partition: int, source: str, fetched: FetchResult, rows: Ints, reasons: Sequence[str],
        details: Sequence[str | None], error: StoreError,
    ) -> None:  # fmt: skip
        offsets = fetched.offsets[rows].tolist()
        kept = {
            "topic": topic, "partition": partition, "source": source, "identity": fetched.identity, "reasons": list(reasons),
            "details": list(details), "offsets": offsets, "stamps_us": fetched.timestamps_us[rows].tolist(),
            "refused": {o: fetched.refused[o] for o in offsets if o in fetched.refused},
            "records": [[_text(k), _text(v), [[n, _text(h)] for n, h in headers]] for k, v, headers in fetched.original(rows)],
        }  # fmt: skip
        try:
            write_text(self.folder / f"{uuid.uuid4().hex}-{len(rows)}.json", json.dumps(kept), durable=True)
        except OSError as failed:
            why = f"{self.folder}: {failed.strerror or failed}; free its disk or correct its permissions"
            raise BrokerAway(f"{error}, and the letters cannot be kept in {why}") from None
        where = f"{topic}/{partition}/{offsets[0]}" + (f" and {len(offsets) - 1} more" if len(offsets) > 1 else "")
        self.say(f"{where}: {error}; the letters wait in {self.folder} and the stream goes on")

    def close(self) -> None:
        """Disconnect."""
        self.inner.close()


def waiting_records(path: Path) -> tuple[str, list[Original]]:
    """The source of a file of letters that wait, by name, and their records: key, payload, headers. Raises OSError, ValueError for a file
    that is none."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        return str(kept["source"]), _records(kept)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no dead letters") from error


def keep_waiting(path: Path, stay: Sequence[bool]) -> None:
    """Leave only those letters of a file that ``stay``. Killed in between, those are there twice."""
    kept = json.loads(path.read_text("utf-8"))
    for name in ("reasons", "details", "offsets", "stamps_us", "records"):
        kept[name] = [each for each, stays in zip(kept[name], stay, strict=True) if stays]
    kept["refused"] = {offset: line for offset, line in kept["refused"].items() if int(offset) in kept["offsets"]}
    if kept["records"]:
        write_text(path.with_name(f"{uuid.uuid4().hex}-{len(kept['records'])}.json"), json.dumps(kept), durable=True)
    path.unlink()


def _records(kept: dict[str, Any]) -> list[Original]:
    return [(_bytes(k), _bytes(v), [(n, _bytes(h)) for n, h in headers]) for k, v, headers in kept["records"]]


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
