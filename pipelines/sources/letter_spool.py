"""Dead letters that their topic does not take: kept in the data folder until it does, so that none of them stops a stream for ever."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, model_validator

from pipelines.lake.data_files import write_text
from pipelines.sources.broker import WAITED_FOR, BrokerAway, DeadLetterWriter, FetchResult, Ints, KeptRecords, LetterRefused, Original
from transforms.errors import TandemError
from transforms.locks import try_lock

__all__ = ["SpooledLetters", "keep_waiting", "letters_waiting", "waiting_records"]

AGAIN_SECONDS = 30.0
"""How long letters that wait are left alone until they are tried again."""
CLOSE_SECONDS = 5.0


def letters_waiting(folder: Path) -> int:
    """How many letters wait in a folder of kept ones."""
    return sum(int(path.stem.rpartition("-")[2]) for path in _files(folder))


class SpooledLetters(DeadLetterWriter):
    """Writes by ``inner``; what its broker refuses (LetterRefused) at once, and what nobody has taken for ``patience`` seconds, goes to a
    file of ``folder`` instead, forced to disk, and is written when the topic takes letters again. ``say`` hears of it.

    From then on letters go to files at once, and a thread of its own looks, by a writer that ``again`` opens, whether the topic is back:
    nobody waits a second time for one that is away. So a write returns when its letters outlive a crash, here or there. What is wrong for
    good (no such topic can be, no right to) is still the StoreError that ``inner`` raises. Of all that share a folder, in this process and
    in others, one writes what waits at a time. Letters may be written twice after a crash.
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
        self.given_up: TandemError | None = None
        """Why letters go to files at once: the topic was away for longer than the patience, and nobody has seen it since."""
        self.tried = float("-inf")
        self.trying: threading.Thread | None = None
        self.told: set[str] = set()
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
        if (gone := self.given_up) is not None:
            try:
                self._keep(topic, partition, source_name, fetched, rows, reasons, details, gone)  # said already
            except BrokerAway:
                self.flush()  # the poll ends here: nobody else would look whether the topic is back
                raise
            return
        began = self.clock()
        try:
            self.inner.write(topic, partition, source_name, fetched, rows, reasons, details)
            self.away_since = None
        except LetterRefused as error:
            self.say(self._keep(topic, partition, source_name, fetched, rows, reasons, details, error))
        except WAITED_FOR as error:
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
        away = False
        try:
            with try_lock(self.folder / ".lock") as mine:  # else another one is at it: what it leaves is looked at the next time
                away = not (mine and self._write_waiting())
        except (TandemError, OSError) as error:
            self._say_once(f"the letters in {self.folder} cannot be written: {error}")
        finally:  # however this ends: while it is not known to be away, the next letter asks the topic itself
            self.tried = self.clock()
            if not away:
                self.given_up = self.away_since = None

    def _write_waiting(self) -> bool:
        """Write what waits; whether the topic was there for it."""
        writer, written = self.again(), 0
        try:
            for path in _files(self.folder):
                try:
                    written += _written(path, writer)
                except WAITED_FOR:
                    return False
                except (TandemError, OSError):  # refused, or gone: it keeps no other letter waiting
                    continue
                except ValueError as error:
                    self._say_once(f"{error}; take it away")
            return True
        finally:
            if writer is not self.inner:
                writer.close()
            if written:
                self.say(f"{written} pending dead letters were written to their topic")

    def _say_once(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            self.say(line)

    def _keep(
        self, topic: str, partition: int, source: str, fetched: FetchResult, rows: Ints, reasons: Sequence[str],
        details: Sequence[str | None], error: TandemError,
    ) -> str:  # fmt: skip
        """Keep these letters in a file; the line that says so. Raises BrokerAway when the disk takes none."""
        offsets = fetched.offsets[rows].tolist()
        kept = {
            "topic": topic, "partition": partition, "source": source, "identity": fetched.identity, "run": fetched.run,
            "reasons": list(reasons), "details": list(details), "offsets": offsets, "stamps_us": fetched.timestamps_us[rows].tolist(),
            "refused": {o: fetched.refused[o] for o in offsets if o in fetched.refused},
            "records": [[_text(k), _text(v), [[n, _text(h)] for n, h in headers]] for k, v, headers in fetched.original(rows)],
        }  # fmt: skip
        try:
            write_text(self.folder / f"{uuid.uuid4().hex}-{len(rows)}.json", json.dumps(kept), durable=True)
        except OSError as failed:
            why = f"{self.folder}: {failed.strerror or failed}; free its disk or correct its permissions"
            raise BrokerAway(f"{error}, and the letters cannot be kept in {why}") from None
        where = f"{topic}/{partition}/{offsets[0]}" + (f" and {len(offsets) - 1} more" if len(offsets) > 1 else "")
        return f"{where}: {error}; the dead letters are kept in {self.folder} and the stream continues"

    def close(self) -> None:
        """Disconnect; what is being written now has a moment for it, and waits for the next start else."""
        if self.trying is not None:
            self.trying.join(CLOSE_SECONDS)
        self.inner.close()


_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Kept(BaseModel):
    """What a file holds, as :meth:`SpooledLetters._keep` wrote it: N letters of one partition; keys, values and headers in base64."""

    topic: str
    partition: Annotated[int, Field(ge=0, lt=2**31)]
    source: str
    identity: str
    run: str = ""
    reasons: list[str]
    details: list[str | None]
    offsets: list[_Int64]
    stamps_us: list[_Int64]
    refused: dict[int, str]
    records: list[tuple[str | None, str | None, list[tuple[str, str | None]]]]

    @model_validator(mode="after")
    def _check(self) -> _Kept:
        if len({len(each) for each in (self.reasons, self.details, self.offsets, self.stamps_us, self.records)}) > 1:
            raise ValueError("its lists are not of one length")
        self.originals()
        return self

    def originals(self) -> list[Original]:
        """The records as they came."""
        return [(_bytes(k), _bytes(v), [(n, _bytes(h)) for n, h in headers]) for k, v, headers in self.records]


def _read(path: Path) -> _Kept:
    """A file of letters that wait. Raises OSError, and ValueError, one line, whatever else the file holds."""
    try:
        return _Kept.model_validate_json(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} holds no dead letters") from None


def _files(folder: Path) -> list[Path]:
    """The files of letters, by name: it ends in how many they are. What has another name is none."""
    return sorted(path for path in folder.glob("[!.]*-*.json") if re.fullmatch(r".*-[0-9]{1,9}", path.stem, re.DOTALL))


def waiting_records(path: Path) -> tuple[str, list[Original]]:
    """The source of a file of letters that wait, by name, and their records: key, payload, headers. Raises OSError, ValueError for a file
    that is none."""
    kept = _read(path)
    return kept.source, kept.originals()


def keep_waiting(path: Path, stay: Sequence[bool]) -> None:
    """Leave only those letters of a file that ``stay``. Killed in between, those are there twice. Raises as :func:`waiting_records`."""
    kept = _read(path)
    for name in ("reasons", "details", "offsets", "stamps_us", "records"):
        setattr(kept, name, [each for each, stays in zip(getattr(kept, name), stay, strict=True) if stays])
    kept.refused = {offset: line for offset, line in kept.refused.items() if offset in kept.offsets}
    if kept.records:
        write_text(
            path.with_name(f"{uuid.uuid4().hex}-{len(kept.records)}.json"), kept.model_dump_json(exclude_defaults=True), durable=True
        )
    path.unlink()


def _written(path: Path, writer: DeadLetterWriter) -> int:
    """Write the letters of a file and delete it; how many. Raises what ``writer`` does, FileNotFoundError where it is gone, ValueError."""
    kept = _read(path)
    n = len(kept.records)
    fetched = FetchResult(
        pa.nulls(n, pa.binary()), np.array(kept.offsets, np.int64), np.array(kept.stamps_us, np.int64), 0, 0, False,
        kept.identity, KeptRecords(kept.originals()), kept.refused, kept.run,
    )  # fmt: skip
    writer.write(kept.topic, kept.partition, kept.source, fetched, np.arange(n), kept.reasons, kept.details)
    path.unlink(missing_ok=True)
    return n


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value, validate=True)
