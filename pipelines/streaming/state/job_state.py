"""What a streaming job's driver, its workers and its users know of each other: files in one folder, ``data/stream/<name>/``.

``checkpoints/`` the checkpoint of each shard (Tandem's own, not Flink's: how far rows are delivered), ``tiles/`` what its windows hold
(:mod:`pipelines.streaming.state.saved_tiles`), ``flags/`` what is asked of the
job, ``fatal.json`` why it must end, ``events.log`` what it says, ``skipped.jsonl`` the records that it is to leave out, ``letters/``
dead letters that their topic did not take, ``status/`` numbers for people and metrics. Files are replaced as a whole, or grow by whole
lines.

**What holds.** Whoever saves a checkpoint has given to the operating system what it vouches for (rows in the online store, row log, late
log) before.

* After the crash of any process, however it ends, what was written is there: :meth:`JobState.load_checkpoints` gives the last record saved.
* After a power loss (or on another machine) a record that was not forced to disk might have reached it before what it vouches for.
  So each record names the boot of the machine that it was made in, and one of another boot is not believed: the last record saved with
  ``durable=True`` counts then. It is forced to disk, and who saves it has forced to disk all that it vouches for. The job
  repeats what came after it, and ordered writes make that harmless.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from pipelines.lake.data_files import write_text
from pipelines.lake.process_identity import user
from pipelines.streaming.state.checkpoint_records import (
    FOLDER_OF_1,
    Checkpoint,
    CheckpointRecord,
    checkpoint_records,
    checkpoints_of,
    new_record,
    record_of,
    records_in,
)
from pipelines.streaming.state.stream_link import ANEW, link_of
from pipelines.streaming.state.taken_segments import forget_taken
from pipelines.streaming.state.tile_store import TileFile, TileStore
from transforms.errors import DataError

__all__ = ["RESUME", "JobState", "SkippedRecord"]

RESUME = "resume-"
"""What the flags begin with that let a paused partition (``source-partition``) go on."""
_LONGEST_FILE = 256 * 1024
_MOST_UNSAID = 100
"""Lines that are remembered while the disk takes none."""
_PART = re.compile(r"[A-Za-z0-9_.-]+")


def _append(path: Path, data: bytes) -> int:
    """Append to a file and return its size then. One write in append mode: the system puts it at the end as a whole."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        done = os.write(handle, data)
        if done < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


class SkippedRecord(TypedDict):
    """A record that the job leaves out, as a person said."""

    topic: str
    partition: int
    offset: int
    reason: str
    at: str
    """UTC, ISO 8601."""
    by: str
    """The user."""


class JobState:
    """The folder of one streaming job; made if it is not there. Safe from many threads and processes; can be pickled (it is a path)."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        for name in ("flags", "status"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.link = link_of(self.folder)
        self._skips: tuple[int, dict[tuple[str, int], frozenset[int]]] = (0, {})
        self._unsaid: list[bytes] = []
        self._checkpoints = checkpoints_of(self.folder)
        (self._checkpoints / "durable").mkdir(parents=True, exist_ok=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return JobState, (self.folder,)

    def __repr__(self) -> str:
        return f"JobState({str(self.folder)!r})"

    # ---------------------------------------------------------------------------------------------------------- checkpoint

    def save_checkpoint(self, shard: int, checkpoint: Checkpoint, durable: bool = False) -> None:
        """Save the checkpoint of a shard once all that it vouches for was given to the operating system.

        Cheap (some 20 us), so that it can follow every batch. ``durable``: all that was also forced to disk, and so is this record
        (some milliseconds): it outlives a power loss.
        """
        record = new_record(checkpoint, _now("microseconds"))
        if durable and self.link is not None:
            self.link.put_checkpoint(shard, record, driver=not self.link.elsewhere)
        text = json.dumps(record)
        name = f"shard-{shard:04d}.jsonl"
        if durable:
            write_text(self._checkpoints / "durable" / name, text + "\n", durable=True)
        # Appended, as replacing a file costs a millisecond (ext4 allocates its blocks at once); a line that was torn
        # by a crash is ended by the next one's newline.
        path = self._checkpoints / name
        if _append(path, f"\n{text}\n".encode()) > _LONGEST_FILE:
            write_text(path, text + "\n")

    def take_over(self, shard: int, record: CheckpointRecord | None) -> None:
        """Have the record of a shard that another machine saved (None: there is none any more) as if it had been saved here."""
        for folder in (self._checkpoints / "durable", self._checkpoints):
            path = folder / f"shard-{shard:04d}.jsonl"
            if record is None:
                path.unlink(missing_ok=True)
            else:
                write_text(path, json.dumps(record) + "\n", durable=True)

    def have_checkpoints(self) -> None:
        """Of an object store: have what other machines saved since. Raises StoreError."""
        if self.link is not None:
            self.link.have_longer(self.folder / "skipped.jsonl")
            self.link.pull_checkpoints(self.take_over)

    def began_before(self) -> bool:
        """Of a stream without checkpoints: whether it had another beginning, of which there are rows. Raises StoreError."""
        if self.link is not None and self.link.began_before():
            return True
        return any((self.folder / "before").glob("*")) or any((self.folder / "rows").rglob("*.*"))

    def beside(self) -> list[str]:
        """The names of other streams over the same data that have checkpoints. Raises DataError, StoreError."""
        if self.link is not None:
            return self.link.beside()
        return sorted(f.name for f in self.folder.parent.glob("*") if f != self.folder and checkpoint_records(f))

    def load_checkpoints(self) -> dict[int, Checkpoint]:
        """The checkpoint of each shard that may be believed (see the module). Raises DataError for a damaged file.

        A shard whose records all stem from another boot and are not durable is not there: it starts anew.
        """
        return {shard: record["checkpoint"] for shard, record in self.load_checkpoint_records().items()}

    def load_checkpoint_records(self) -> dict[int, CheckpointRecord]:
        """As :meth:`load_checkpoints`, each ``checkpoint`` beside the moment at which it was ``saved`` (UTC, ISO 8601)."""
        return records_in(self._checkpoints)

    def checkpoint_bytes(self, shard: int) -> bytes:
        """All that the files of a shard's checkpoint hold: whatever name does not stand there is in none of its records."""
        name, found = f"shard-{shard:04d}.jsonl", b""
        for path in (self._checkpoints / name, self._checkpoints / "durable" / name):
            with suppress(FileNotFoundError):
                found += path.read_bytes()
        return found

    def named_tiles(self, shard: int) -> list[TileFile]:
        """The files of tiles that any record of a shard's checkpoint names, that may be believed or not."""
        out: dict[str, TileFile] = {}
        for path in (self._checkpoints / "durable" / f"shard-{shard:04d}.jsonl", self._checkpoints / f"shard-{shard:04d}.jsonl"):
            with suppress(DataError):
                out |= {file.name: file for file in map(TileFile.from_json, record_of(path)["checkpoint"].get("tiles", ()))}
        return list(out.values())

    def rename_tiles(self, shard: int, made: Mapping[str, TileFile]) -> None:
        """Let both records of a shard's checkpoint name other files of tiles instead (by name). For one who holds the stream."""
        for path in (self._checkpoints / "durable" / f"shard-{shard:04d}.jsonl", self._checkpoints / f"shard-{shard:04d}.jsonl"):
            if path.is_file():
                record = record_of(path)
                named = [made[n].to_json() if (n := value[0]) in made else value for value in record["checkpoint"].get("tiles", [])]
                record["checkpoint"]["tiles"] = named
                if self.link is not None and path.parent.name == "durable":
                    self.link.put_checkpoint(shard, record, driver=True)
                write_text(path, json.dumps(record) + "\n", durable=True)

    def clear_checkpoints(self) -> None:
        """Forget every checkpoint: the job starts anew. What it logged until now moves to ``before/<time>/``: a new beginning judges
        again what is late, and its rows are its own."""
        if self.link is not None:
            self.link.have_whole_log()
            self.link.drop_checkpoints()
        for path in self._checkpoints.rglob("shard-*.jsonl"):
            path.unlink(missing_ok=True)
        TileStore(self.folder).forget()
        aside = self.folder / "before" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        for name in ("rows", "late"):
            if (self.folder / name).is_dir():
                aside.mkdir(parents=True, exist_ok=True)
                (self.folder / name).rename(aside / name)
        if self.link is not None:
            self.link.move_aside(("rows", "late"), aside)
        forget_taken(self.folder)

    def forget_shards(self, first: int) -> None:
        """Forget the checkpoints of shard ``first`` and all above it."""
        if self.link is not None:
            self.link.drop_checkpoints(first)
        for path in self._checkpoints.rglob("shard-*.jsonl"):
            if int(path.stem.removeprefix("shard-")) >= first:
                path.unlink(missing_ok=True)
        TileStore(self.folder).forget(first)

    # ----------------------------------------------------------------------------------------------------------------- skips

    def skip(self, topic: str, partition: int, offset: int, reason: str) -> None:
        """Record that a record is left out from now on, and why; it stays so."""
        facts: SkippedRecord = {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "reason": _line(reason),
            "at": _now(),
            "by": user(),
        }
        _append(self.folder / "skipped.jsonl", (json.dumps(facts) + "\n").encode())
        if self.link is not None:
            self.link.send(self.folder / "skipped.jsonl")

    def skipped(self) -> list[SkippedRecord]:
        """All that is left out."""
        try:
            return [json.loads(line) for line in (self.folder / "skipped.jsonl").read_text("utf-8").splitlines() if line]
        except FileNotFoundError:
            return []

    def skips(self) -> dict[tuple[str, int], frozenset[int]]:
        """(topic, partition) -> the offsets that are left out. Cheap where none are, or none are new."""
        try:
            size = (self.folder / "skipped.jsonl").stat().st_size
        except FileNotFoundError:
            return {}
        if self._skips[0] != size:
            found: dict[tuple[str, int], frozenset[int]] = {}
            for facts in self.skipped():
                where = facts["topic"], facts["partition"]
                found[where] = found.get(where, frozenset()) | {facts["offset"]}
            self._skips = size, found
        return self._skips[1]

    # ----------------------------------------------------------------------------------------------------------------- flags

    def request(self, what: str) -> None:
        """Ask something of the job, for example "stop"; it stays asked until it is cleared."""
        self._flag(what).touch()

    def requested(self, what: str) -> bool:
        """Whether it is asked. Cheap: one look at a file name."""
        if self.link is not None and self.link.elsewhere:
            return what in self.link.flags
        return os.path.exists(self._flag(what))

    def clear(self, what: str) -> None:
        """Take back what was asked; nothing happens if it was not."""
        if self.link is not None and self.link.elsewhere:
            self.link.clear(what)
        self._flag(what).unlink(missing_ok=True)

    def _flag(self, what: str) -> Path:
        return self.folder / "flags" / _checked(what)

    def fail(self, line: str) -> None:
        """Tell the driver to end the job for good, and why; the first reason stays. What a full disk does not take goes to stderr: the
        engine then fails of whatever is raised next, and the reason is found again when it is tried again."""
        if self.link is not None and self.link.elsewhere:
            self.link.fail(_line(line))
        path = self.folder / "fatal.json"
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            unfinished.write_text(json.dumps({"at": _now(), "reason": _line(line)}), "utf-8")
            with suppress(FileExistsError):
                os.link(unfinished, path)  # unlike a rename, a link never replaces
        except OSError as error:
            print(f"{_line(line)} (not in {path}: {error.strerror})", file=sys.stderr, flush=True)
        finally:
            unfinished.unlink(missing_ok=True)

    def failure(self) -> str | None:
        """Why the job must end; None while it need not."""
        try:
            return str(json.loads((self.folder / "fatal.json").read_text("utf-8"))["reason"])
        except FileNotFoundError:
            return None

    def begin(self) -> None:
        """For a driver that starts the job: forget the flags, failure and numbers of the one before; checkpoints and the log stay, and so
        does what was resumed while nothing ran."""
        if self._checkpoints.name == FOLDER_OF_1:
            self._checkpoints = self._checkpoints.rename(self.folder / "checkpoints")
        for path in (*(self.folder / "flags").iterdir(), *(self.folder / "status").iterdir()):
            if not path.name.startswith(RESUME):
                path.unlink(missing_ok=True)
        (self.folder / "fatal.json").unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------- words and numbers

    def say(self, line: str) -> None:
        """Append a line with the time (UTC) to ``events.log``; lines of several processes never mix.

        Never fails: what a full disk does not take stands in the log before the next line that it takes.
        """
        self.say_again(f"{_now()} {_line(line)}")

    def say_again(self, line: str) -> None:
        """As :meth:`say`, of a line that has its time."""
        if self.link is not None and self.link.elsewhere:
            self.link.say(line)
        lines, self._unsaid = [*self._unsaid, f"{_line(line)}\n".encode()], []
        try:
            # Of a write that was cut short a beginning may be there: the newline in front ends it.
            _append(self.folder / "events.log", b"".join(lines) if len(lines) == 1 else b"\n" + b"".join(lines))
        except OSError as error:
            self._unsaid = lines[-_MOST_UNSAID:]
            print(f"{lines[-1].decode().strip()} (not in events.log: {error.strerror})", file=sys.stderr, flush=True)

    def said(self, since: int = 0) -> tuple[list[str], int]:
        """The whole lines after place ``since`` of the log (0: its beginning), and the place to ask from the next time."""
        try:
            with open(self.folder / "events.log", "rb") as log:
                log.seek(since)
                data = log.read()
        except FileNotFoundError:
            return [], 0
        whole = data[: data.rfind(b"\n") + 1]
        return [line for line in whole.decode("utf-8", "replace").splitlines() if line], since + len(whole)

    def report(self, part: str, values: dict[str, Any]) -> None:
        """Replace the numbers of a part of the job (``poll-departures-0``, ``shard-0``); ``at`` (seconds since 1970) is added.

        Costs a millisecond: for a few times a second, not for every batch. Never fails: a full disk keeps the numbers of before, and
        that there is somebody who reports shows all the same (:meth:`heard`).
        """
        if self.link is not None and self.link.elsewhere:
            self.link.report(part, values)
        path = self.folder / "status" / f"{_checked(part)}.json"
        try:
            write_text(path, json.dumps({"at": time.time(), **values}))
        except OSError:
            with suppress(OSError):
                os.utime(path)

    def heard(self) -> dict[str, int]:
        """Part -> a number that is another one whenever polls and sinks reported, or tried to. It says nothing else: clocks may be set."""
        out = {}
        for kind in ("poll-", "sink-"):
            for path in (self.folder / "status").glob(f"{kind}*.json"):
                with suppress(OSError):
                    out[path.stem] = path.stat().st_mtime_ns
        return out

    def asked_anew(self, since: float) -> str | None:
        """Why a worker elsewhere asked, at ``since`` (seconds since 1970) or later, that the job is started anew; None where none did."""
        if self.link is None:
            return None
        for path in (self.folder / "status").glob(f"{ANEW}*.json"):
            with suppress(OSError, ValueError, KeyError):
                values = json.loads(path.read_text("utf-8"))
                if values["at"] >= since:
                    return str(values["reason"])
        return None

    def reports(self) -> dict[str, dict[str, Any]]:
        """The numbers of every part."""
        out = {}
        for path in sorted((self.folder / "status").glob("[!.]*.json")):
            with suppress(OSError, ValueError):
                out[path.stem] = json.loads(path.read_text("utf-8"))
        return out


def _now(timespec: str = "milliseconds") -> str:
    return datetime.now(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _line(text: str) -> str:
    return " ".join(str(text).split("\n")).strip()


def _checked(name: str) -> str:
    if not _PART.fullmatch(name) or name.startswith("."):
        raise ValueError(f"{name!r} cannot be a file name here; use letters, digits, '_', '.' and '-'")
    return name
