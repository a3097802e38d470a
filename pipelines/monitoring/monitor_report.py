"""What ``tandem monitor`` found: the record that its page, its table, ``--json`` and ``report.json`` are made of, and on which the watch
decides. Light: no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from pipelines.lake import layout
from pipelines.lake.report_records import Report
from pipelines.lake.run_parts import Code
from pipelines.lineage.trace_record import Trace
from pipelines.monitoring.checks import Check

__all__ = [
    "ByChance", "ColumnShape", "Day", "LabelCounts", "MonitorReport", "QualityNumbers", "QualityReport", "RecomputedAnswers",
    "RecomputedSample", "ReliabilityBin", "ViewAges",
]  # fmt: skip


class ByChance(TypedDict):
    """How far apart quiet windows of the training set are was measured on so many of them."""

    windows: int
    text: str


class Day(TypedDict):
    """A UTC day's answers, and how far each column is from training; empty where they are too few."""

    day: str
    rows: int
    skew: dict[str, float]


class ColumnShape(TypedDict, total=False):
    """One column as it was trained, is served, and was ``before``: shares per step of ``edges`` (``kind`` number) or per value (text)."""

    kind: str
    nulls: dict[str, float]
    trained: list[float]
    served: list[float]
    before: list[float]
    edges: list[float]
    median: dict[str, float | None]
    served_range: list[float] | None
    values: list[str]
    distinct: int
    skew: float
    skew_threshold: float
    skew_status: str
    suspect: str
    """The unit that it looks like."""
    drift: float
    drift_threshold: float
    drift_status: str


class ViewAges(TypedDict, total=False):
    """How old a view's rows were when they were served: a histogram in steps of ``age_step_s`` up to the TTL, the last step older."""

    ttl_s: float
    statuses: dict[str, int]
    age_s: dict[str, float]
    ages: list[int]
    age_step_s: float
    usual_absent: float
    """The share of training rows without a row of the view."""


class LabelCounts(TypedDict):
    """What came of joining labels, see ``labels.Labelled``."""

    model: str
    answers: int
    labelled: int
    added: int
    corrected: int
    waiting: int
    ambiguous: int
    unmatched: int
    tolerance_hours: float
    file: str | None


class QualityNumbers(TypedDict):
    """Mean prediction, rate of positives, AUC (None: one class only) and log loss in nats over labelled rows."""

    rows: int
    mean: float
    rate: float
    auc: float | None
    log_loss: float


class ReliabilityBin(TypedDict):
    """A tenth of the answers in order of prediction."""

    rows: int
    mean: float
    rate: float


class QualityReport(QualityNumbers):
    """The window's answers with labels, beside the training report's test split; ``chance``: what it allows of gap, AUC and log loss."""

    report: QualityNumbers
    reliability: list[ReliabilityBin]
    report_reliability: list[ReliabilityBin]
    chance: dict[str, float]
    chance_from: str


class RecomputedSample(TypedDict):
    """An answer that is not what the event log says."""

    request: str
    row: int
    as_of: str
    keys: dict[str, Any]
    kind: str
    cause: str
    feature: str | None
    served: Any
    expected: Any


class RecomputedAnswers(TypedDict):
    """A view's answers against their recomputation, see ``recompute.Recomputed``; ``behind_s``: quantiles, in seconds."""

    answers: int
    values: int
    kinds: dict[str, int]
    causes: dict[str, dict[str, int]]
    features: dict[str, int]
    behind_s: dict[str, float]
    samples: list[RecomputedSample]


@dataclass(frozen=True, kw_only=True)
class MonitorReport(Report):
    """A window of a model's answers, judged. Where nothing could be, ``checks`` say why."""

    MADE: ClassVar[str] = "written"

    verdict: str = ""
    """``ok``, ``warn`` or ``fail``."""
    headline: str = ""
    model: str | None = None
    version: int | None = None
    """The version whose answers are judged: that of the latest."""
    versions: dict[str, int] = field(default_factory=dict)
    """Version -> answers."""
    training_set: str | None = None
    window: list[str] | None = None
    """First moment, and the one before which the answers lie; ISO 8601 in UTC, as all moments here."""
    before: list[str] | None = None
    """The window before it, of the same length."""
    rows: int = 0
    rows_before: int = 0
    checks: list[Check] = field(default_factory=list)
    features: dict[str, ColumnShape] = field(default_factory=dict)
    views: dict[str, ViewAges] = field(default_factory=dict)
    prediction: None = None
    """Always null: the prediction stands among ``features``."""
    labels: LabelCounts | None = None
    quality: QualityReport | None = None
    recomputed: dict[str, RecomputedAnswers] = field(default_factory=dict)
    days: list[Day] = field(default_factory=list)
    chance: ByChance | None = None
    lineage: Trace | None = None
    """Of one answer: one with values that nothing explains if there is one, else the latest."""
    notices: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """The section ``monitor`` of tandem.yaml."""
    run: str | None = None
    created: str = ""
    """The moment as of which the window was judged: now, or ``--as-of``."""
    written: str = ""
    """When that was done, whatever moment it was judged as of; reports of before this was kept have none."""
    folder: str = ""
    """Where the report lies."""
    seconds: float = 0.0
    command: str = ""
    code: Code = field(default_factory=lambda: Code())
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The report's page."""
        return Path(self.folder) / layout.REPORT_PAGE

    @classmethod
    def decoded(cls, name: str, value: Any, place: object) -> Any:
        """Checks and the trace are records of their own."""
        if name == "checks":
            return [Check.of(each, place) for each in value]
        return Trace.of(value, place) if name == "lineage" else value
