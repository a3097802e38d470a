"""What ``tandem verify`` found: the record that its page, its table, ``--json`` and ``report.json`` are made of. Light: no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from pipelines.lake import layout
from pipelines.lake.report_records import Report
from pipelines.lake.run_parts import Code

__all__ = [
    "Behind", "CheckedKeys", "CheckedStores", "ComparedBatch", "ComparedGroup", "ComparedStream", "Counts", "RowsOverTime", "Sample",
    "ServedAnswers", "SourceEvents", "VerifyReport",
]  # fmt: skip


class Counts(TypedDict, total=False):
    """Values or rows: how many were compared and are equal, and by cause those that are not. Rows alone have the last four."""

    compared: int
    equal: int
    different: dict[str, int]
    batch: int
    stream: int
    missing: dict[str, int]
    extra: dict[str, int]


class Sample(TypedDict):
    """A row that is not equal: ``kind`` (missing, extra, different), and of each unequal feature what batch and stream have."""

    keys: dict[str, Any]
    event_timestamp: str
    cause: str
    kind: str
    values: dict[str, list[Any]]


class ComparedGroup(TypedDict):
    """A feature group's rows of batch and stream."""

    rows: Counts
    features: dict[str, Counts]
    fingerprint: str
    fingerprints: dict[str, int]
    """Fingerprint -> rows of the stream that bear it."""
    output_watermark: list[str | None]
    """By shard."""
    conflicts: int
    unexplained: int
    revisions: dict[str, int]
    """Revision -> rows."""
    repeats: int
    samples: list[Sample]


class Behind(TypedDict):
    """How late events came, in steps of seconds: ``edges_s`` are the steps' ends but for the last, which is open."""

    edges_s: list[int]
    in_time: list[int]
    corrects: list[int]
    too_late: list[int]


class SourceEvents(TypedDict):
    """A source's events from its topic."""

    topic: str
    events: int
    before: int
    too_late: int
    not_late: int
    not_noted: int
    out_of_orderness_s: float
    allowed_lateness_s: float
    behind: Behind


class CheckedKeys(TypedDict):
    """A group's keys in the online store, by cause; ``lines``: a few that nothing explains."""

    keys: int
    causes: dict[str, int]
    lines: list[str]


class CheckedStores(TypedDict):
    """A view's keys offline and online, by cause; ``extra``: those that are stored and no run has; ``notice``: what is to be run."""

    view: str
    keys: int
    causes: dict[str, int]
    extra: int
    lines: list[str]
    notice: str
    unexplained: int


class ServedAnswers(TypedDict):
    """A view's answers of the server, by cause and status; ``behind_s``: quantiles of how far those in flight are behind, in seconds."""

    answers: int
    values: int
    causes: dict[str, int]
    statuses: dict[str, int]
    behind_s: dict[str, float]
    lines: list[str]


class RowsOverTime(TypedDict, total=False):
    """Rows of all groups by their event timestamp, in steps of ``step_s`` seconds from ``start`` on; None: there is none."""

    step_s: int
    start: str | None
    equal: list[int]
    explained: list[int]
    in_flight: list[int]
    unexplained: list[int]


class ComparedStream(TypedDict, total=False):
    """The stream: its latest run, the batch run that it began from and at which moment, source -> partition -> the offset up to which its
    topic was read, and the rows ahead of its checkpoints."""

    name: str
    run: str | None
    from_run: str | None
    begin: str | None
    shards: int
    offsets: dict[str, dict[str, int]]
    ahead: int


class ComparedBatch(TypedDict, total=False):
    """The batch run; ``against``: whether it was there before."""

    run: str
    against: bool
    range: list[str]
    events: dict[str, int]
    fingerprints: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Report):
    """Everything that was compared. ``unexplained`` counts what no cause was proven for: 0 is the proof."""

    MADE: ClassVar[str] = "started"

    verdict: str = ""
    """``proven`` or ``unexplained``."""
    headline: str = ""
    unexplained: int = 0
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    values: Counts = field(default_factory=lambda: Counts())
    rows: Counts = field(default_factory=lambda: Counts())
    groups: dict[str, ComparedGroup] = field(default_factory=dict)
    sources: dict[str, SourceEvents] = field(default_factory=dict)
    online: dict[str, CheckedKeys] = field(default_factory=dict)
    stores: dict[str, CheckedStores] = field(default_factory=dict)
    served: dict[str, ServedAnswers] = field(default_factory=dict)
    time: RowsOverTime = field(default_factory=lambda: RowsOverTime())
    range: list[str] = field(default_factory=list)
    """First and last moment of the rows that were compared, ISO 8601 in UTC, as all moments here."""
    stream: ComparedStream = field(default_factory=lambda: ComparedStream())
    batch: ComparedBatch = field(default_factory=lambda: ComparedBatch())
    started: str = ""
    seconds: float = 0.0
    folder: str = ""
    """Where the report lies."""
    scratch: str | None = None
    """Where the rows that were made for the comparison lie, if they were kept."""
    command: str = ""
    code: Code = field(default_factory=lambda: Code())
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether every difference has its cause."""
        return self.verdict == "proven"

    @property
    def page(self) -> Path:
        """The report's page."""
        return Path(self.folder) / layout.REPORT_PAGE
