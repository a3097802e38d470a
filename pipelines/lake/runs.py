"""Runs: a folder each, with a manifest (one JSON file, replaced atomically); a run is held by one process at a time.

``status`` is running, publishing, failed, killed or complete. A process that is killed cannot say so: whoever looks at a run whose process
is gone while its manifest says running finds ``killed``, and saves that. ``stage`` then tells how far it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pipelines.lake import layout, shared
from pipelines.lake.data_files import json_digest, write_json
from pipelines.lake.process_identity import ProcessId
from pipelines.lake.run_index import heads
from pipelines.lake.run_records import FORMAT, RunHead, RunRecord, head_fields, head_of, known_fields, record_of
from transforms import locks
from transforms.errors import DataError

__all__ = ["LAST_WORD", "UNDER_WAY", "Run", "RunStore", "begin", "damaged", "find", "list_runs", "moment_of", "range_of"]

UNDER_WAY = ("running", "publishing")
LAST_WORD = "ended.json"
"""What a process that took the place of the one that began the run (a server) leaves beside the manifest when it ends in order."""
_LOOKING_SECONDS = 2.0

Record = TypeVar("Record", bound=RunRecord)


class Run:
    """One run: its folder ``data/runs/<id>``, what it says of itself (``head``, ``record``), and how that is changed.

    Of a run that was listed the head alone is at hand; the rest is read when it is asked for.
    """

    def __init__(self, folder: Path | str, manifest: dict[str, Any] | None = None, head: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._manifest = manifest
        self._head = head or {}
        self._record: RunRecord | None = None

    @property
    def folder(self) -> Path:
        """Where the run keeps its own files."""
        if isinstance(self._folder, str):  # of one among thousands in a list: made when it is asked for
            self._folder = Path(self._folder)
        return self._folder

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON has it, what this version does not know included. Raises DataError if it cannot be read (any more)."""
        if self._manifest is None:
            self._manifest = self._read()
        return self._manifest

    @manifest.setter
    def manifest(self, value: dict[str, Any]) -> None:
        self._manifest, self._record = value, None

    @property
    def _facts(self) -> Mapping[str, Any]:
        return self._head if self._manifest is None else self._manifest

    @property
    def head(self) -> RunHead:
        """The few things that lists and filters look at; at hand without reading the manifest."""
        return head_of(self._head if self._manifest is None else head_fields(self._manifest))

    @property
    def record(self) -> RunRecord:
        """All that the run says of itself, in the record of its kind; see ``as_`` for what only that kind says."""
        if self._record is None:
            self._record = record_of(self.manifest)
        return self._record

    def as_(self, record: type[Record]) -> Record:
        """The record, which is of this kind. Raises DataError for a run of another kind."""
        found = self.record
        if not isinstance(found, record):
            raise DataError(f"{self.id} is a {self.kind} run; give a {record.KIND} run")
        return found

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.folder.name

    @property
    def data(self) -> Path:
        """The data folder that the run belongs to."""
        return self.folder.parents[1]

    @property
    def status(self) -> str:
        """See the module."""
        return str(self._facts["status"])

    @property
    def stage(self) -> str:
        """How far the run is, or was when it was killed or failed."""
        return str(self._facts.get("stage", self.status)) if self.status in ("killed", "failed") else self.status

    @property
    def kind(self) -> str:
        """What kind of job it is: batch, train, stream, ..."""
        return str(self._facts.get("kind", ""))

    @property
    def created(self) -> str:
        """When it began, ISO 8601 in UTC."""
        return str(self._facts.get("created", ""))

    def save(self, **changes: Any) -> None:
        """Change the manifest and write it; what else is in it stays. Raises TypeError for a field that runs of this kind do not have."""
        known = known_fields(self.kind)
        if known is not None and (unknown := sorted(changes.keys() - known - self.manifest.keys())):
            raise TypeError(f"a {self.kind} run has no field {unknown[0]!r}; add it to its record in lake/run_records.py")
        self.manifest = shared.put_manifest(self.data, self.id, {**self.manifest, **changes}, changes)
        write_json(self.folder / layout.MANIFEST, self.manifest)

    def add(self, **changes: Any) -> None:
        """As ``save``, but mappings are merged into those that are there, and lists appended to them."""
        merged = {}
        for name, value in changes.items():
            before = self.manifest.get(name)
            if isinstance(before, dict) and isinstance(value, dict):
                value = {**before, **value}
            elif isinstance(before, list) and isinstance(value, list):
                value = [*before, *value]
            merged[name] = value
        self.save(**merged)

    def forget(self, *names: str) -> None:
        """Take fields out of the manifest; the next ``save`` writes it without them."""
        self.manifest = {k: v for k, v in self.manifest.items() if k not in names}

    @contextmanager
    def held(self) -> Iterator[TextIO]:
        """Hold the run; raises DataError while another process does. The hold ends with the process, however it ends.

        The manifest is read again once the run is held: who held it before may have taken it further. From then on it names this process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            until = time.monotonic() + _LOOKING_SECONDS
            while not locks.take(lock):
                # Somebody who looks whether the run is held holds it for a moment; its maker does for long, and lives.
                if _lives(self._read()) is not False or time.monotonic() > until:
                    raise DataError(f"run {self.id} is being executed by another process; wait for it or stop it")
                time.sleep(0.02)
            # A server's process is followed by the program itself, which renews no lease.
            with shared.run_held(self.data, self.id) if self.kind != "serve" else nullcontext():
                self.manifest = {**self._read(), **ProcessId.current().for_manifest()}
                yield lock

    def _read(self) -> dict[str, Any]:
        manifest = _manifest(self.folder)
        if isinstance(manifest, str):
            raise DataError(manifest)
        return manifest

    def look(self) -> Run:
        """The same run with its true status: one whose process is gone is ``killed``, or what its last word says; that is saved."""
        if self.status not in UNDER_WAY or (alive := _lives(self._facts)):
            return self
        if alive is None and not (
            (self.folder / ".lock").exists() if (held := shared.run_is_held(self.data, self.id)) is None else not held
        ):
            return self  # made by hand, or by an older version: nothing to judge by; or another machine says that it goes on
        try:
            with open(self.folder / ".lock", "a") as lock:
                if not locks.take(lock):
                    return self
                self.manifest = self._read()  # its maker may have ended it between our look and our hold
                if self.status in UNDER_WAY and not _lives(self.manifest):
                    changes = self._end()
                    self.manifest = {**self.manifest, **changes}
                    with suppress(OSError):  # a folder that is not ours to write to still tells the truth
                        self.save()
        except (OSError, DataError):
            pass
        return self

    def _end(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            word = json.loads((self.folder / LAST_WORD).read_text())
            if isinstance(word, dict) and word.get("pid") == self.manifest.get("pid"):
                return {"status": "complete", **{k: v for k, v in word.items() if k != "pid"}}
        why = f"its process ({self.manifest.get('pid', 'unknown')}) no longer exists: it was killed, or the machine went down"
        return {"status": "killed", "stage": self.status, "error": why, "noticed": datetime.now(UTC).isoformat()}


def _lives(facts: Mapping[str, Any]) -> bool | None:
    """Whether the run's process lives; None if that cannot be judged from here (another machine, or an older manifest)."""
    process = ProcessId.of_manifest(facts)
    return process.alive if process is not None else None


def _manifest(folder: Path) -> dict[str, Any] | str:
    """The manifest in a run's folder, or one line that says why it cannot be used."""
    why = ""
    try:
        manifest = json.loads((folder / layout.MANIFEST).read_text())
        if isinstance(manifest, dict) and isinstance(manifest.get("status"), str):
            return manifest
        why = "it is no manifest"
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError as error:
        why = str(error).splitlines()[0]
    return f"run {folder.name}: its manifest cannot be read ({why}); restore {folder / layout.MANIFEST} or remove the folder"


class RunStore:
    """The runs of a data folder; safe for any number of processes."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.folder = layout.runs(data)

    def runs(self) -> list[Run]:
        """All runs with a readable manifest, oldest first, each with its true status. Opens one file, not one per run."""
        found = self._heads()
        order = sorted((str(head.get("created", "")), name) for name, head in found.items())
        runs = [Run(f"{self.folder}/{name}", head=found[name]) for _, name in order]
        return [run.look() if run.status in UNDER_WAY else run for run in runs]

    def as_written(self, kind: str, *statuses: str) -> list[Run]:
        """The runs of a kind whose manifests say one of these statuses, oldest first. Writes nothing, neither an index nor what became of
        a run."""
        found = {n: h for n, h in self._heads(keep=False).items() if h.get("kind") == kind and h.get("status") in statuses}
        order = sorted((str(head.get("created", "")), name) for name, head in found.items())
        return [Run(f"{self.folder}/{name}", head=found[name]) for _, name in order]

    def _heads(self, keep: bool = True) -> dict[str, dict[str, Any]]:
        shared.have_manifests(self.data)

        def read(folder: Path) -> dict[str, Any] | None:
            manifest = _manifest(folder)
            return head_fields(manifest) if isinstance(manifest, dict) else None

        return heads(self.folder, layout.MANIFEST, read, keep)

    def damaged(self) -> list[str]:
        """One line for each run whose manifest cannot be read."""
        readable = {run.id for run in self.runs()}
        others = (path.parent for path in sorted(self.folder.glob(f"*/{layout.MANIFEST}")) if path.parent.name not in readable)
        return [line for line in map(_manifest, others) if isinstance(line, str)]

    def find(self, run_id: str, kind: str | None = None) -> Run:
        """The run called ``run_id``, or that starts so, if only one does. Raises DataError.

        ``latest`` is the newest run; with a ``kind``, as whoever needs a run of that kind asks, the newest complete one of it.
        """
        runs = self.runs()
        if run_id == "latest":
            meant = [r for r in runs if kind is None or (r.kind == kind and r.status == "complete")]
            if not meant:
                raise DataError(f"there is no {'run' if kind is None else f'complete {kind} run'} in {self.data} yet; make one first")
            return meant[-1]
        found = [r for r in runs if r.id == run_id] or [r for r in runs if r.id.startswith(run_id)]
        if len(found) != 1:
            folder = self.folder / run_id
            if not found and run_id and "/" not in run_id and (folder / layout.MANIFEST).exists():
                raise DataError(str(_manifest(folder)))
            known = ", ".join(r.id for r in (found or runs)[-5:]) or "none"  # of several those that are meant
            raise DataError(f"{'no run is' if not found else 'several runs are'} called {run_id!r}; the latest are {known}")
        return found[0]

    def begin(
        self, kind: str, key: Mapping[str, Any], now: datetime, *, rerun: bool = False, replaced: Callable[[Run], bool] = lambda run: False
    ) -> Run:
        """The run that ``key`` (a JSON-able value) asks for: an earlier one of the same key if there is one, else a new one.

        An unfinished earlier run is to be completed under its id; a complete one is returned as it is, unless ``rerun``. Neither is one
        that is ``replaced``: what it made, or would make under its id, does not count any more.
        A new run's manifest is there when this returns, so that of several processes at once one makes it and the others find it.
        """
        layout.claim(self.data)
        shared.claim(self.data)
        with shared.alone(self.data, self.folder / ".lock"):
            shared.have_manifests(self.data, certain=True)
            return self._begin(kind, json_digest(key), now, rerun, replaced)

    @contextmanager
    def alone(self, besides: Collection[str] = ()) -> Iterator[None]:
        """For who takes things away: no run begins meanwhile (it waits), and none is under way but of the kinds ``besides``.

        Raises DataError, which names one that is.
        """
        with shared.alone(self.data, self.folder / ".lock"):
            shared.have_manifests(self.data, certain=True)
            for run in self.runs():
                if run.status in UNDER_WAY and run.kind not in besides:
                    raise DataError(f"{run.kind} run {run.id} is running and may need what would be removed; wait for it, or stop it")
            yield

    def _after_all(self, now: datetime) -> datetime:
        """``now``, or just after the newest run: a clock that was set back must not make the newest run an older one."""
        created = [moment for head in self._heads().values() if (moment := moment_of(head.get("created"))) is not None]
        return max([now, *(moment + timedelta(microseconds=1) for moment in created)])

    def _begin(self, kind: str, digest: str, now: datetime, rerun: bool, replaced: Callable[[Run], bool]) -> Run:
        # Only folders of the kind and the key: a long history need not be read to begin one more run.
        folders = sorted(p.parent for p in self.folder.glob(f"{kind}-*-{digest[:8]}*/{layout.MANIFEST}"))
        runs = [Run(f, m).look() for f in folders if isinstance(m := _manifest(f), dict)]
        same = [r for r in sorted(runs, key=lambda r: (r.created, r.id)) if r.head.key == digest and not replaced(r)]
        unfinished = [r for r in same if r.kind == kind and r.status != "complete"]
        if unfinished:
            return unfinished[-1]
        if same and not rerun:
            return same[-1]
        stamp = self._after_all(now.astimezone(UTC))
        run_id = f"{kind}-{stamp:%Y%m%dT%H%M%S}-{digest[:8]}"
        count = 2
        while (self.folder / run_id).exists():
            run_id = f"{kind}-{stamp:%Y%m%dT%H%M%S}-{digest[:8]}-{count}"
            count += 1
        manifest = {"format": FORMAT, "id": run_id, "kind": kind, "status": "running", "created": stamp.isoformat(), "key": digest}
        run = Run(self.folder / run_id, manifest | ProcessId.current().for_manifest())
        run.folder.mkdir(parents=True, exist_ok=True)
        run.save()
        return run


def moment_of(text: Any) -> datetime | None:
    """A time in a record, in UTC where it names no zone; None where it is none that can be read."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:  # of a manifest that somebody wrote by hand
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def range_of(run: Run) -> tuple[datetime, datetime] | None:
    """The range of a batch or training run, with a zone (UTC where it names none); None where it has none that can be read."""
    moments = [moment_of(t) for t in run.head.range]
    return (moments[0], moments[1]) if len(moments) == 2 and moments[0] and moments[1] else None


def list_runs(data: Path) -> list[Run]:
    """See ``RunStore.runs``."""
    return RunStore(data).runs()


def damaged(data: Path) -> list[str]:
    """See ``RunStore.damaged``."""
    return RunStore(data).damaged()


def find(data: Path, run_id: str, kind: str | None = None) -> Run:
    """See ``RunStore.find``."""
    return RunStore(data).find(run_id, kind)


def begin(
    data: Path,
    kind: str,
    key: Mapping[str, Any],
    now: datetime,
    *,
    rerun: bool = False,
    replaced: Callable[[Run], bool] = lambda run: False,
) -> Run:
    """See ``RunStore.begin``."""
    return RunStore(data).begin(kind, key, now, rerun=rerun, replaced=replaced)
