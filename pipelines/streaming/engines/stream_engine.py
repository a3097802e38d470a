"""What runs the streaming job: an :class:`Engine` makes jobs, the supervisor watches one at a time.

An engine is chosen by ``tandem stream --runner NAME`` (:data:`pipelines.project.extensions.ENGINES`); a package brings one by an entry
point of the group ``tandem.engines``. ``tandem.testing.engine`` is the suite that every engine holds. Nothing here imports Beam.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.streaming.engines.spark_executors import loss_behind, signalled
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.streaming.state.job_spec import JobSpec

__all__ = ["Engine", "EngineJob", "EngineOptions", "EngineSettings", "cause", "parts_allowed", "read_settings", "why_ended"]


@dataclass(frozen=True)
class EngineOptions:
    """What ``tandem stream`` says of how the job runs. ``name`` is the job's at the engine, ``folder`` the stream's: what an engine keeps
    lies below, in a folder of its own. ``repo``, ``data``: folders of the repository and of its data. ``given``: the engine's own settings
    (``--engine-option NAME=VALUE``). ``preload``: modules that every worker will need. ``beam_args``: what stood after ``--``."""

    name: str
    folder: Path
    parallelism: int = 1
    given: Mapping[str, str] = field(default_factory=dict)
    savepoint: str | None = None
    preload: tuple[str, ...] = ()
    beam_args: tuple[str, ...] = ()
    repo: Path = Path()
    data: Path = Path()


class EngineSettings(BaseModel):
    """What ``--engine-option`` may say; an engine with settings of its own has a subclass. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineJob(ABC):
    """One attempt at running the job. A new attempt is a new job."""

    ends_hung_workers: bool = False
    """Whether :meth:`stop` ends workers that hang or are stopped, too: only then may another attempt replace one that is silent."""

    @abstractmethod
    def start(self) -> None:
        """Start it; returns before the job runs. Raises TandemError, OSError."""

    @abstractmethod
    def poll(self) -> int | None:
        """None while it runs; else how it ended: 0 by itself, anything else by a failure. Cheap: asked ten times a second."""

    @abstractmethod
    def error(self) -> str:
        """Why it failed, one line. Raises ConfigError for what the user must correct: of the first attempt it ends the stream."""

    def unheard(self, parts: Sequence[str]) -> str | None:
        """Why nobody may be working on parts of the job (their names) of which nothing was heard for long, one line with the fix; None:
        such an engine has no workers that could be out of reach."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """End the job and all that was started for it; nothing of it writes any more when this returns. Called in every case, more than
        once too. What was delivered is durable; nothing else counts."""


class Engine(ABC):
    """Makes the jobs of one ``tandem stream``.

    **What an engine owes a job.** The graph of :func:`pipelines.streaming.stages.stream_graph.build`, its keyed steps with the state of
    their key. It may repeat, reorder and lose work in progress: the job's own checkpoint makes folding exactly once. Beam state that it
    brings back must be of one moment with what it repeats, or be gone altogether.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[EngineSettings]] = EngineSettings
    """The settings that it takes; they are in ``settings``, which a subclass annotates with this class."""
    settings: EngineSettings
    endless: ClassVar[bool] = True
    """Runs until it is stopped. Without: it passes once over what the topics hold, so ``--until latest`` is needed."""
    savepoints: ClassVar[bool] = False
    """Keeps its state by :meth:`stop_with_savepoint`, and starts from ``options.savepoint``."""
    in_process: ClassVar[bool] = False
    """Its workers are this process: they reach what lives here alone, such as a broker in memory."""
    elsewhere: ClassVar[bool] = False
    """Its workers may be on other machines: of a stream whose data folder is a cache of an object store they are heard by that."""

    def __init__(self, options: EngineOptions, say: Callable[[str], None] = lambda line: None) -> None:
        """``say`` hears what a person should know. Raises ConfigError, as :meth:`check`."""
        self.check(options)
        self.options, self.say, self.settings = options, say, self.settings_of(options)

    @classmethod
    def check(cls, options: EngineOptions) -> None:
        """Whether the options are this engine's; cheap, before anything is loaded. Raises ConfigError, one line with the fix."""
        cls.settings_of(options)
        if options.savepoint is not None and not cls.savepoints:
            raise ConfigError(
                f"--from-savepoint {options.savepoint}: engine {cls.name!r} has no savepoints; leave it out: the stream resumes from"
                " its own checkpoint"
            )

    @classmethod
    def settings_of(cls, options: EngineOptions) -> EngineSettings:
        """The engine's own settings among the options; see :func:`read_settings`."""
        return read_settings(cls.Settings, options, cls.name)

    def prepare(self) -> None:  # noqa: B027
        """Begin, in the background, what takes long and needs no job: called before the job is planned."""

    def parts(self, shards: int) -> int:
        """Into how many parts a job spreads its entities where the user asked for ``shards``: by default as many."""
        return shards

    def shard_keys(self, shards: int) -> tuple[int, ...]:
        """A whole number for each shard, all different, by which the engine is to know it; by default the shard's own number. For an engine
        that spreads keys over its tasks by a hash, and few of them unevenly."""
        return tuple(range(shards))

    @abstractmethod
    def new_job(self, spec: JobSpec, first: bool) -> EngineJob:
        """The job of the next attempt; ``options.savepoint`` counts for the first alone. Raises ConfigError, TandemError."""

    def stop_with_savepoint(self) -> str:
        """Stop the running job and keep its state; where it lies. Raises TandemError: then the job goes on."""
        raise ConfigError(f"engine {self.name!r} has no savepoints; stop it without: the stream keeps its own checkpoint")

    def close(self) -> None:  # noqa: B027
        """Let go of what :meth:`prepare` began and no job took."""


Given = TypeVar("Given", bound=EngineSettings)


def read_settings(kind: type[Given], options: EngineOptions, runner: str) -> Given:
    """The settings of an engine among the options, of its own class. Raises ConfigError; a value is not in it, as it may be a secret."""
    try:
        return kind(**options.given)
    except ValidationError as error:
        first = error.errors()[0]
        key, known = ".".join(map(str, first["loc"])), ", ".join(kind.model_fields) or "none"
        raise ConfigError(
            f"engine option {key!r}: {first['msg']}; the options of --runner {runner} are: {known}; correct it or leave it out"
        ) from None


def parts_allowed(settings: EngineSettings) -> int:
    """Into how many parts an engine of one process may divide a job: its setting ``parts``, one where it has none, as the settings of
    a package's engine that derives from it may."""
    return int(getattr(settings, "parts", 1))


def why_ended(code: int, log: str) -> str:
    """Why an engine's JVM ended with this exit code (negative: by a signal), one line, from what it and its workers said."""
    return f"its JVM was {signalled(-code)}" if code < 0 else cause(log) or f"it ended with code {code}"


def cause(log: str) -> str:
    """The innermost cause in a JVM's stack trace or a worker's traceback within it; empty where there is none. Of a Spark that lost
    executors and gave up for that, why the last one was lost."""
    found = ""
    lines = log.splitlines()
    python = re.compile(r"^([A-Za-z_][\w.]*(Error|Exception|Gone|Away|Topic)\b.*)$")
    for line in lines:
        if line.startswith(_FULL_HEAP):
            return f"the heap of its JVM was full ({line.removeprefix(_FULL_HEAP)})"
        if line.startswith("Caused by: "):
            found = line.removeprefix("Caused by: ").strip()
        elif line.startswith("Exception in thread ") and not found:
            found = line.split(" ", 4)[-1].strip()
    if lost := loss_behind(found, log):
        return lost
    traced = [m.group(1) for line in lines if (m := python.match(line.strip())) and not line.startswith(("\tat", "Caused by"))]
    if "Traceback (most recent call last)" in log and traced:
        return traced[-1]
    return "a worker's process ended without an error, as where the kernel kills it for want of memory" if _HUNG_UP in found else found


_HUNG_UP = "StatusRuntimeException: CANCELLED"
"""What a runner says of a worker that it cannot reach any more."""
_FULL_HEAP = "Terminating due to java.lang.OutOfMemoryError: "
