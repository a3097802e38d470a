"""What a job wraps its work in: ``with recorded(repo, "batch") as run:``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipelines.lake.process_identity import ProcessId
from pipelines.lake.provenance import facts, masked, masked_command
from pipelines.lake.runs import UNDER_WAY, Run, begin
from serving import tracing
from transforms.errors import TandemError

__all__ = ["FOLDER", "PARENT", "Observer", "ProjectRef", "Stopped", "hand_over", "observe", "recorded", "recording"]

PARENT = "TANDEM_PARENT_RUN"
"""Set while a run is made: jobs that it starts, in this process or another, name it as their parent."""
FOLDER = "TANDEM_RUN_FOLDER"
"""Tells a process that takes our place (the server) where to leave its last word."""
_OF_AN_END = ("error", "stage", "noticed", "finished", "seconds", "ended")


class Place(Protocol):
    """A repository, or what of it a run needs: its folder, settings and data folder."""

    @property
    def path(self) -> Path: ...
    @property
    def settings(self) -> Any: ...
    @property
    def data(self) -> Path: ...


@dataclass(frozen=True)
class ProjectRef:
    """A repository whose definitions are not loaded."""

    path: Path
    settings: Any
    data: Path


class Observer(Protocol):
    """Is told of each recorded run, in the job's own process: must not raise, and not keep it waiting."""

    def begins(self, run: Run, settings: Any, data: Path) -> None:
        """The run's first words are about to be written: whoever sees them from now on may kill the process."""

    def started(self, run: Run, settings: Any, data: Path) -> None:
        """The run's manifest is there."""

    def ended(self, run: Run) -> None:
        """The run's manifest is final."""


_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Have ``observer`` told of every run that this process records from now on (once, however often it is asked)."""
    if observer not in _observers:
        _observers.append(observer)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. Beam hands on as it is what says that it names its step; else it would be a step's error, with its trace on the screen."""

    _tagged_with_step = True


class Stopped(Interrupted):
    """SIGTERM came."""


@contextmanager
def recorded(
    place: Place, kind: str, *, key: dict[str, Any] | None = None, rerun: bool = True, parent: str | None = None,
    now: datetime | None = None, **fields: Any,
) -> Iterator[Run]:  # fmt: skip
    """A run for the work inside: begun, held and recorded. Without a ``key`` it is a new one; see ``begin`` and ``recording``."""
    own = key if key is not None else {"at": time.time_ns(), "pid": os.getpid(), "thread": threading.get_ident()}
    run = begin(place.data, kind, own, now or datetime.now(UTC), rerun=rerun)
    with run.held(), recording(run, place, parent=parent, **fields):
        yield run


@contextmanager
def recording(run: Run, place: Place, *, parent: str | None = None, **fields: Any) -> Iterator[None]:
    """Record the work inside in ``run``, which is held: first the facts, at the end that it is complete, failed (and why) or killed.

    Killed is said of SIGTERM and Ctrl-C; who is killed by force cannot speak, see ``Run.look``. A status that the work sets stays.
    """
    run.forget(*_OF_AN_END)
    begun = time.monotonic()
    with tracing.span(f"run {run.kind}", run=run.id):
        yield from _recording(run, place, parent, fields, begun)


def _recording(run: Run, place: Place, parent: str | None, fields: Mapping[str, Any], begun: float) -> Iterator[None]:
    for observer in _observers:
        observer.begins(run, place.settings, place.data)
    _first_words(run, place, parent, fields)
    for observer in _observers:
        observer.started(run, place.settings, place.data)
    try:
        with _variable(PARENT, run.id), _variable(tracing.VARIABLE, tracing.traceparent()), _terminated():
            yield
    except KeyboardInterrupt as stop:
        _end(run, begun, "killed", "SIGTERM: stopped before it was finished" if isinstance(stop, Stopped) else "interrupted (Ctrl-C)")
        raise
    except BaseException as error:
        code = getattr(error, "code", getattr(error, "exit_code", None)) if type(error).__name__ in ("SystemExit", "Exit") else 1
        if code in (0, None):
            _end(run, begun, "complete")
        else:
            _end(run, begun, "failed", (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__)
        raise
    else:
        _end(run, begun, "complete")
    finally:
        for observer in _observers:
            observer.ended(run)


def hand_over(place: Place, kind: str, **fields: Any) -> Run:
    """A run for the program that takes this process's place (``processes.become``): it lasts as long as the process does.

    The program finds its run's folder in the environment (``TANDEM_RUN_FOLDER``) and leaves ``ended.json`` there when it ends in order.
    """
    run = begin(place.data, kind, {"at": time.time_ns(), "pid": os.getpid()}, datetime.now(UTC), rerun=True)
    hold = run.held()
    lock = hold.__enter__()
    _first_words(run, place, None, fields)
    os.set_inheritable(lock.fileno(), True)  # the hold goes on in the program
    _KEPT.append(hold)
    os.environ[FOLDER] = str(run.folder)
    os.environ[PARENT] = run.id
    return run


_KEPT: list[Any] = []


def _first_words(run: Run, place: Place, parent: str | None, fields: Mapping[str, Any]) -> None:
    program = Path(sys.argv[0]).name
    command = ["tandem" if program in ("cli.py", "tandem", "__main__.py") else program, *sys.argv[1:]]
    empty: dict[str, Any] = {
        "inputs": {},
        "fingerprints": {},
        "seeds": {},
        "counts": {},
        "metrics": {},
        "params": {},
        "outputs": [],
        "links": {},
    }
    own = parent or os.environ.get(PARENT) or None
    said = {
        **({"trace": trace} if (trace := tracing.ids().get("trace_id")) else {}),
        "status": "running",
        "command": masked_command(command),
        "parent": own if own != run.id else None,
    }
    run.save(**{**empty, **run.manifest, **ProcessId.current().for_manifest(), **said, **facts(place), **fields})


def _end(run: Run, begun: float, status: str, error: str | None = None) -> None:
    changes: dict[str, Any] = {"finished": datetime.now(UTC).isoformat(), "seconds": round(time.monotonic() - begun, 3)}
    if run.status in UNDER_WAY:
        if status != "complete":
            changes["stage"] = run.status
        changes["status"] = status
    if error is not None:
        changes.setdefault("error", run.head.error or masked(error))
    # A full disk, or an object store that is away, must not hide what went wrong first; the run is found killed then.
    with suppress(OSError) if status == "complete" else suppress(OSError, TandemError):
        run.save(**changes)


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """A variable of the environment, for the jobs that are started meanwhile; None changes nothing."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        elif value is not None:
            os.environ.pop(name, None)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM raises ``Stopped`` inside and Ctrl-C ``Interrupted``, unless somebody else handles them."""
    kinds = ((signal.SIGTERM, signal.SIG_DFL, Stopped), (signal.SIGINT, signal.default_int_handler, Interrupted))
    ours = threading.current_thread() is threading.main_thread()
    mine = {sign: (usual, raised) for sign, usual, raised in kinds if ours and signal.getsignal(sign) is usual}

    def stop(number: int, frame: Any) -> None:
        raise mine[signal.Signals(number)][1]

    for sign in mine:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign, (usual, _) in mine.items():
            signal.signal(sign, usual)
