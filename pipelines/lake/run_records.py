"""What runs say of themselves, typed: a record per kind of run, read from its manifest (JSON). Light: standard library only.

Three versions of Tandem may share a data folder: fields that this one does not know stay in a manifest when it is written again, and
fields that an older one did not write have their defaults. ``FORMAT`` rises when a field changes its meaning. What is ``Any`` here has
keys, or a form, that others choose: users, extensions (tables, trackers), or the room that writes it, which has the type.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from pipelines.lake.run_parts import (
    Code,
    Continued,
    InputFile,
    Machine,
    OutputFile,
    PassedOver,
    PromotionCheck,
    RetrainTrigger,
    StreamStart,
    SuiteOutcome,
    TileSet,
    TrainingQuery,
)  # fmt: skip

__all__ = [
    "FORMAT", "BatchRecord", "EvaluateRecord", "ExperimentsRecord", "EventsRecord", "PipelineRecord",
    "PromoteRecord", "RetrainRecord", "RunHead", "RunRecord", "ServeRecord", "StreamRecord", "TrainRecord", "WatchRecord", "head_fields",
    "head_of", "known_fields", "record_of", "with_fields",
]  # fmt: skip

FORMAT = 1
"""The format of the manifests that this version writes. Those without a number are older; they are read as this one."""


@dataclass(frozen=True, kw_only=True)
class RunHead:
    """What lists, filters and monitoring look at: of every run at once, so it is small and kept in the index of runs."""

    id: str = ""
    kind: str = ""
    status: str = ""
    created: str = ""
    """When it began, ISO 8601 in UTC, as all moments here."""
    format: int = 0
    key: str = ""
    """The SHA-256 of what the run was asked for: one of the same key is the same run, gone on with."""
    parent: str | None = None
    """The run that began this one."""
    pid: int | None = None
    process_start: str | None = None
    host: str | None = None
    stage: str | None = None
    """How far a run was that was killed or failed."""
    error: str | None = None
    ended: str | None = None
    """Why a lasting job (a stream, a server) ended, if in order."""
    noticed: str | None = None
    """When a run was found killed."""
    finished: str | None = None
    seconds: float | None = None
    asked_to_stop: bool = False
    range: list[str] = field(default_factory=list)
    """First and last moment of event time that the run is about; empty where it is about none."""
    name: str | None = None
    """The stream's."""
    model: str | None = None
    version: int | None = None
    of_run: str | None = None
    """The run that was applied, or made again."""
    outcome: str | None = None
    """How a promotion, a rollback or a retraining ended."""
    rows_made: int = 0
    """The feature rows, or training rows, that it made."""
    judged: str | None = None
    """What came of it, beside how it ended: ``pushed version 2``, ``not pushed``, ``ok``, ``fail``, ``promoted``; None where nothing is
    judged."""
    score: tuple[str, float] | None = None
    """One of its metrics, by name: the AUC on the test split, if it has that."""


@dataclass(frozen=True, kw_only=True)
class RunRecord(RunHead):
    """What every kind of run may say beside its head."""

    KIND: ClassVar[str] = ""

    command: list[str] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Group -> fingerprint of the graph that its rows are of."""
    inputs: dict[str, list[InputFile]] = field(default_factory=dict)
    """Source (or ``offline/<view>``) -> the files that were read."""
    outputs: list[OutputFile] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    links: dict[str, Any] = field(default_factory=dict)
    """Where else the run is known: MLflow, W&B, ML Metadata."""
    expectations: dict[str, SuiteOutcome] = field(default_factory=dict)
    """Suite -> what came of it over the run's rows (or a source's events)."""
    trace: str | None = None
    """The id of its trace (W3C, 32 hexadecimal digits), where it had one."""
    code: Code = field(default_factory=lambda: Code())
    lock: str | None = None
    """The SHA-256 of requirements.lock."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library -> version."""
    machine: Machine = field(default_factory=lambda: Machine())
    settings: dict[str, Any] = field(default_factory=dict)
    """Those of tandem.yaml, environment and flags, without secrets."""
    definitions: dict[str, Any] = field(default_factory=dict)
    """Group (or ``model <name>``) -> its definition in canonical form."""
    verdict: str | None = None
    reasons: list[str] = field(default_factory=list)
    """Why a model was not pushed."""
    reason: str | None = None
    missed: list[str] = field(default_factory=list)
    """The thresholds that a version missed."""
    forced: bool = False
    evaluation: dict[str, Any] = field(default_factory=dict)
    """As ``promotion.evaluate.Evaluation`` gives it."""
    more: dict[str, Any] = field(default_factory=dict)
    """What the manifest says beside: of a newer version, or of a kind that has no record of its own."""


@dataclass(frozen=True, kw_only=True)
class BatchRecord(RunRecord):
    """A batch run: feature rows of a range."""

    KIND = "batch"

    events: dict[str, int] = field(default_factory=dict)
    """Source -> events read."""
    filtered: dict[str, int] = field(default_factory=dict)
    """Source -> events that its ``where`` passes over; they are not among those read."""
    empty: dict[str, int] = field(default_factory=dict)
    """Source -> records without an event, as the list that it explodes has no element; nor are they."""
    misplaced: dict[str, int] = field(default_factory=dict)
    """Source -> events read in a ``date=`` folder of another day (UTC) than theirs."""
    null_fields: dict[str, int] = field(default_factory=dict)
    """``<source>/<field>`` -> the events that were read, of the fields that were null in all of them."""
    rejected: dict[str, int] = field(default_factory=dict)
    """``<source>/<reason>`` -> events."""
    rejected_fields: dict[str, int] = field(default_factory=dict)
    """``<source>/<reason>/<field>`` -> events, of the reasons that are about one field."""
    rows: dict[str, int] = field(default_factory=dict)
    """Group -> rows made."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """``<group>/<feature>`` -> values that are NaN or infinite."""
    tiles: TileSet = field(default_factory=lambda: TileSet())
    """What a stream starts from."""
    runner: str | None = None
    pinned: bool = False
    """Whether the graphs that were applied were used as they are."""
    carried_over: dict[str, list[str]] = field(default_factory=dict)
    """Group -> what its contract accepts more than the one that its graph was made of."""
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Group -> what its definition says beside its canonical form that decides the run: function, file format, lateness."""
    passed_over: dict[str, PassedOver] = field(default_factory=dict)
    """By source."""
    continues: Continued = field(default_factory=lambda: Continued())
    """Empty of a run that began by itself."""
    past: dict[str, list[InputFile]] = field(default_factory=dict)
    """Source -> the files before its start that it did not read: what they hold was in the tiles, and they were found unchanged."""
    spans: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Source -> file -> first and last event time (microseconds), of the files (read or past) whose folder does not tell it."""
    tables: dict[str, Any] = field(default_factory=dict)
    """Source -> the snapshot of its table that was read: ``kind``, ``rows``, ``sha256``, and what the kind of table says beside."""


@dataclass(frozen=True, kw_only=True)
class EventsRecord(RunRecord):
    """Event logs written for a range."""

    KIND = "events"

    events: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainRecord(RunRecord):
    """A training: a training set, a model, and a version if it was pushed."""

    KIND = "train"

    once: str | None = None
    """The text that this is the only training for (``tandem train --idempotency-key``)."""
    training_set: str | None = None
    features: list[str] = field(default_factory=list)
    """What the model reads from the store, ``view:feature``."""
    query: TrainingQuery = field(default_factory=lambda: TrainingQuery())
    blessed: bool | None = None
    seconds_of: dict[str, float] = field(default_factory=dict)
    untold: list[str] | str | None = None
    """Parts of the report that could not be made."""


@dataclass(frozen=True, kw_only=True)
class ExperimentsRecord(RunRecord):
    """Several trainings, compared."""

    KIND = "experiments"

    comparison: dict[str, Any] = field(default_factory=dict)
    """As ``training.experiments.Comparison`` gives it."""


@dataclass(frozen=True, kw_only=True)
class PipelineRecord(RunRecord):
    """All steps from events to an evaluated model, below one run."""

    KIND = "pipeline"

    train_start: str | None = None
    steps: dict[str, str] = field(default_factory=dict)
    """The steps that are done, and what they gave."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRecord(RunRecord):
    """Versions of a model on one held-out set."""

    KIND = "evaluate"

    tfma: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PromoteRecord(RunRecord):
    """A version judged for promotion; see ``promotion.promote.Decision``."""

    KIND = "promote"

    champion: int | None = None
    challenger: int | None = None
    notes: list[str] = field(default_factory=list)
    checks: list[PromotionCheck] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StreamRecord(RunRecord):
    """A stream from its start to its end."""

    KIND = "stream"

    runner: str | None = None
    start: StreamStart = field(default_factory=lambda: StreamStart())
    reading: dict[str, dict[str, str]] = field(default_factory=dict)
    """Source -> the format of its records, and a hash of that format's settings. Manifests of before have none."""
    savepoint: str | None = None
    restarts: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    """As ``streaming.status.StreamStatus`` gives it."""


@dataclass(frozen=True, kw_only=True)
class ReproduceRecord(RunRecord):
    """A run (``of_run``) that was made again."""

    KIND = "reproduce"

    result: dict[str, Any] = field(default_factory=dict)
    """Artifacts with their verdicts, and the causes of differences."""


@dataclass(frozen=True, kw_only=True)
class ServeRecord(RunRecord):
    """A server from its start to its end."""

    KIND = "serve"

    serving: dict[str, Any] = field(default_factory=dict)
    """Its settings, without secrets."""


@dataclass(frozen=True, kw_only=True)
class WatchRecord(RunRecord):
    """The watch: one look, or until it was stopped."""

    KIND = "watch"

    once: bool = False


@dataclass(frozen=True, kw_only=True)
class RetrainRecord(RunRecord):
    """A retraining by the watch."""

    KIND = "retrain"

    tries: int = 0
    begun: str | None = None
    triggers: list[RetrainTrigger] = field(default_factory=list)
    detail: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReplayRecord(RunRecord):
    """Event logs sent into their topics."""

    KIND = "replay"

    passed_over: dict[str, PassedOver] = field(default_factory=dict)
    """As of a batch run."""


_PLAIN = ("archive", "apply", "materialize", "rollback", "dlq-replay", "verify", "monitor", "demo", "check")
"""Kinds that say what every run may, and no more."""
_OF_KIND: dict[str, type[RunRecord]] = {**{cls.KIND: cls for cls in RunRecord.__subclasses__()}, **dict.fromkeys(_PLAIN, RunRecord)}
_PARAMS_OF_BEFORE = {"anew": "overwrite"}
"""Of ``archive``: what manifests call a parameter -> what it is called now."""
HEAD = tuple(f.name for f in fields(RunHead))


_ALL: tuple[type[RunRecord], ...] = (RunRecord, *RunRecord.__subclasses__())
_NAMES = {cls: frozenset(f.name for f in fields(cls)) - {"more"} for cls in _ALL}


def with_fields(reason: str, fields: Mapping[str, int]) -> str:
    """``<source>/<reason>`` and, where events were rejected for single fields, how often for which."""
    mine = {key.rpartition("/")[2]: n for key, n in fields.items() if key.rpartition("/")[0] == reason}
    own = sorted(mine.items(), key=lambda item: (-item[1], item[0]))
    return f"{reason} ({', '.join(f'{field} {n:,}' for field, n in own[:5])}{', ...' if len(own) > 5 else ''})" if own else reason


def known_fields(kind: str) -> frozenset[str] | None:
    """The names of what a run of this kind may say; None for a kind without a record of its own."""
    return _NAMES[_OF_KIND[kind]] if kind in _OF_KIND else None


def record_of(manifest: Mapping[str, Any]) -> RunRecord:
    """The record of the kind that the manifest is of. What is null or missing has its default."""
    cls = _OF_KIND.get(str(manifest.get("kind", "")), RunRecord)
    names = _NAMES[cls]
    said = {k: v for k, v in manifest.items() if k in names and v is not None}
    if said.get("kind") == "archive" and isinstance(params := said.get("params"), Mapping):
        said["params"] = {_PARAMS_OF_BEFORE.get(name, name): value for name, value in params.items()}
    return cls(**{**said, "judged": _judged(manifest)}, more={k: v for k, v in manifest.items() if k not in names})


def head_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest is in its head, JSON-able."""
    out = {k: v for k in HEAD if (v := manifest.get(k)) is not None}
    with suppress(AttributeError, TypeError):  # what somebody wrote by hand keeps no list from being shown
        made = sum(n for name, n in (manifest.get("counts") or {}).items() if name.startswith("rows/"))
        if rows := made or sum((manifest.get("rows") or (manifest.get("summary") or {}).get("rows_of") or {}).values()):
            out["rows_made"] = rows
        if judged := _judged(manifest):
            out["judged"] = judged
        metrics = manifest.get("metrics") or {}
        if name := next((n for n in ("test/auc", *metrics) if isinstance(metrics.get(n), float)), None):
            out["score"] = [name, metrics[name]]
    return out


def _judged(manifest: Mapping[str, Any]) -> str | None:
    version, kind = manifest.get("version"), manifest.get("kind")
    if kind == "train":
        if version is not None:
            return f"pushed version {version}"
        return "not pushed" if manifest.get("status") == "complete" else None
    said = manifest.get("outcome") or manifest.get("verdict")
    return (f"{said} version {version}" if version is not None and manifest.get("outcome") else str(said)) if said else None


def head_of(fields: Mapping[str, Any]) -> RunHead:
    """The head of a manifest, or of what ``head_fields`` kept of one."""
    return RunHead(**fields)
