"""Where a served prediction came from, as :func:`pipelines.lineage.trace.trace` found it. Light: no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

from pipelines.lake.report_records import Report
from pipelines.lake.run_parts import InputFile

__all__ = [
    "EventFile",
    "ServedRow",
    "Trace",
    "TracedEvents",
    "TracedGraph",
    "TracedRun",
    "TracedSet",
    "TracedTopic",
    "TracedVersion",
    "Writer",
]


class TracedVersion(TypedDict, total=False):
    """The model version that answered. Those after ``there`` are what its ``tandem.json`` and the aliases say, where they can be read."""

    model: str
    version: int | None
    path: str
    there: bool
    created: str | None
    training_set: str | None
    run: str | None
    fingerprints: dict[str, str] | None
    feature_service: str | None
    alias_now: str | None


class TracedRun(TypedDict, total=False):
    """The training run; of one that is not ``recorded``, only the id is known."""

    id: str
    recorded: bool
    status: str
    created: str
    range: list[str]
    seeds: dict[str, int]
    params: dict[str, Any]
    metrics: dict[str, float]
    code: dict[str, Any]
    lock: str | None
    links: dict[str, Any]


class TracedSet(TypedDict, total=False):
    """The training set; ``intact``: whether its files are as they were written, where its run is known."""

    id: str
    path: str
    there: bool
    created: str | None
    rows: dict[str, int]
    query: dict[str, Any]
    intact: bool


class Writer(TypedDict, total=False):
    """Who wrote the row: a ``stream`` by its ``name``, or a ``batch`` run, whose rows lie in ``path``."""

    kind: str
    name: str
    run: str | None
    created: str | None
    revision: int | None
    fingerprint: str | None
    path: str


class TracedGraph(TypedDict, total=False):
    """The transform graph that the row was made by."""

    fingerprint: str
    path: str
    there: bool
    made_by: str | None
    applied_now: bool
    definition_hash: str | None


class TracedTopic(TypedDict, total=False):
    """The topic that a stream read: partition -> the offset that it began at, and from which moment on its events count."""

    name: str
    stream: str
    offsets: dict[str, int] | None
    since: str | None


class EventFile(InputFile):
    """A file that may hold events of the row, and the run that read it; ``now``: as it was, altered, gone."""

    now: str
    run: str


_Time = TypedDict("_Time", {"from": str | None, "to": str | None})  # the one is a word of Python's


class TracedEvents(_Time, total=False):
    """The events that a row can have been made of: those of its longest window, as files, as a topic, or both."""

    source: str
    files: list[EventFile]
    topic: TracedTopic


class ServedRow(TypedDict, total=False):
    """The row of a feature view that was read. ``of``, ``join_keys``: the view and keys behind a projection's name."""

    view: str
    of: str
    join_keys: dict[str, str]
    key: dict[str, Any]
    status: str
    event_timestamp: str | None
    age: Any
    revision: int | None
    fingerprint: str | None
    values: dict[str, Any]
    writers: list[Writer]
    graph: TracedGraph | None
    events: TracedEvents | None


@dataclass(frozen=True, kw_only=True)
class Trace(Report):
    """One answer, traced back. What is no longer there is said in ``notes``."""

    request: str = ""
    row: int = 0
    at: str | None = None
    as_of: str | None = None
    endpoint: str | None = None
    prediction: Any = None
    model: str | None = None
    version: int | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    """Entity keys and request fields."""
    model_version: TracedVersion | None = None
    training_run: TracedRun | None = None
    training_set: TracedSet | None = None
    views: list[ServedRow] = field(default_factory=list)
    """One for each feature view that was read."""
    notes: list[str] = field(default_factory=list)
