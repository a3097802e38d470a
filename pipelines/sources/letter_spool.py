"""Dead letters that their topic does not take: kept in the data folder until it does, so that none of them stops a stream for ever."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.lake.files import write_text
from pipelines.sources.broker import BrokerAway, DeadLetterWriter, FetchResult, Ints, KeptRecords, LetterRefused, Original
from transforms.errors import StoreError, TandemError

__all__ = ["SpooledLetters", "keep_waiting", "letters_waiting", "waiting_records"]

AGAIN_SECONDS = 30.0
"""How long letters that wait are left alone until they are tried again."""
CLOSE_SECONDS = 5.0


def letters_waiting(folder: Path) -> int:
    """How many letters wait in a folder of kept ones."""
    return sum(int(path.stem.rpartition("-")[2]) for path in folder.glob("[!.]*-*.json"))


class SpooledLetters(DeadLetterWriter):
    """Writes by ``inner``; what its broker refuses (LetterRefused) at once, and what nobody has taken for ``patience`` seconds, goes to a
    file of ``folder`` instead, forced to disk, and is written when the topic takes letters again. ``say`` hears of it.

    From then on letters go to files at once, and a thread of its own looks, by a writer that ``again`` opens, whether the topic is back:
    nobody waits a second time for one that is away. So a write returns when its letters outlive a crash, here or there. What is wrong for
    good (no such topic can be, no right to) is still the StoreError that ``inner`` raises. Letters may be written twice: after a crash, or
    by two processes.
    """

    def __init__(
        self,
        inner: DeadLetterWriter,
        folder: Path,
        patience: float,
        say: Callable[[str], None],
        again: Callable[[], DeadLetterWriter] | None = None,
    ) -> None:
        self.inner, self.folder, self.patience, self.say = inner, folder, patience, say
        self.again = again or (lambda: inner)
        self.away_since: float | None = None
        self.given_up: BrokerAway | None = None
        """Why letters go to files at once: the topic was away for longer than the patience, and nobody has seen it since."""
        self.tried = float("-inf")
        self.trying: threading.Thread | None = None
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
        if self.given_up is not None:
            self._keep(topic, partition, source_name, fetched, rows, reasons, details, self.given_up)  # said already
            return
        began = self.clock()
        try:
            self.inner.write(topic, partition, source_name, fetched, rows, reasons, details)
            self.away_since = None
        except LetterRefused as error:
            self.say(self._keep(topic, partition, source_name, fetched, rows, reasons, details, error))
        except BrokerAway as error:
            self.away_since = began if self.away_since is None else self.away_since
            if self.clock() - self.away_since < self.patience:
                raise
            line = self._keep(topic, partition, source_name, fetched, rows, reasons, details, error)
            self.say(f"{line}; so will those that follow")
            self.given_up, self.tried = error, self.clock()

    def flush(self) -> None:
        """Now and then: try to write what waits, beside the stream."""
        now = self.clock()
        if now - self.tried < AGAIN_SECONDS or (self.trying is not None and self.trying.is_alive()):
            return
        self.tried = now
        if letters_waiting(self.folder):
            self.trying = threading.Thread(target=self._try_again, name="letters that wait", daemon=True)
            self.trying.start()
        else:  # taken elsewhere: by another worker, or by an erase
            self.given_up = self.away_since = None

    def _try_again(self) -> None:
        writer, written, away = self.again(), 0, False
        try:
            for path in sorted(self.folder.glob("[!.]*-*.json")):
                try:
                    written += _written(path, writer)
                except BrokerAway:
                    away = True
                    break
                except (TandemError, OSError, ValueError, LookupError):  # refused, gone, or damaged: it keeps no other letter waiting
                    continue
        finally:
            if writer is not self.inner:
                writer.close()
        if written:
            self.say(f"{written} dead letters that waited are in their topic now")
        self.tried = self.clock()
        if not away:
            self.given_up = self.away_since = None

    def _keep(
        self, topic: str, partition: int, source: str, fetched: FetchResult, rows: Ints, reasons: Sequence[str],
        details: Sequence[str | None], error: StoreError,
    ) -> str:  # fmt: skip
        """Keep these letters in a file; the line that says so. Raises BrokerAway when the disk takes none."""
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
        return f"{where}: {error}; the letters wait in {self.folder} and the stream goes on"

    def close(self) -> None:
        """Disconnect; what is being written now has a moment for it, and waits for the next start else."""
        if self.trying is not None:
            self.trying.join(CLOSE_SECONDS)
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


def _written(path: Path, writer: DeadLetterWriter) -> int:
    """Write the letters of a file and delete it; how many. Raises what ``writer`` does, FileNotFoundError where another was faster."""
    kept = json.loads(path.read_text("utf-8"))
    records = _records(kept)
    n, cut = len(records), {int(o): str(line) for o, line in kept["refused"].items()}
    fetched = FetchResult(
        pa.nulls(n, pa.binary()), np.array(kept["offsets"], np.int64), np.array(kept["stamps_us"], np.int64), 0, 0, False,
        kept["identity"], KeptRecords(records), cut,
    )  # fmt: skip
    writer.write(kept["topic"], kept["partition"], kept["source"], fetched, np.arange(n), kept["reasons"], kept["details"])
    path.unlink(missing_ok=True)
    return n


def _records(kept: dict[str, Any]) -> list[Original]:
    return [(_bytes(k), _bytes(v), [(n, _bytes(h)) for n, h in headers]) for k, v, headers in kept["records"]]


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
