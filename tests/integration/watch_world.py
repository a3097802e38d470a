"""A small data folder that a watch can watch: days of events, an applied graph, a champion that was trained on some of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.lake.runs import list_runs
from pipelines.project.config import Settings, TrackingSettings, WatchSettings
from pipelines.project.recording import ProjectRef, recorded
from pipelines.watch.watch_status import Subject
from tests.integration import fake_tandem
from tests.integration.fake_tandem import MODEL
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes

CALM: dict[str, Any] = {"model": MODEL, "version": 1, "verdict": "ok", "checks": []}
DRIFT = {**CALM, "verdict": "fail", "checks": [
    {"name": "skew", "feature": "view__temp", "value": 0.4, "threshold": 0.1, "status": "fail", "detail": "L-infinity 0.400"},
]}  # fmt: skip
BROKEN = {**DRIFT, "checks": [
    *DRIFT["checks"],
    {"name": "unit", "feature": "departures.dep_delay", "value": 60.0, "threshold": None, "status": "fail", "detail": "times 60"},
]}  # fmt: skip
SOURCE = EventSource(
    name="departures",
    fields=[Field("id", "string", required=True)],
    event_time="at",
    tie_breaker="id",
    out_of_orderness=minutes(1),
    allowed_lateness=minutes(1),
    files="events/departures",
)
VIEW = FeatureGroup(name="view", source=SOURCE, entity=Entity("id"), hop=minutes(5), ttl=hours(1), aggregates=[Count(over=[hours(1)])])


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass
class World:
    """The folder ``root``: ``repo`` and ``data``; days of January 2013 up to ``days``, the champion trained up to the 10th."""

    root: Path
    days: int = 12
    settings: dict[str, Any] = field(default_factory=dict)
    promotes: bool = True

    def __post_init__(self) -> None:
        self.repo, self.data = self.root / "repo", self.root / "data"
        self.repo.mkdir()
        for day in range(1, self.days + 1):
            self.add_day(date(2013, 1, day))
        (self.data / "graphs" / "view").mkdir(parents=True)
        (self.data / "graphs" / "view" / "CURRENT").write_text("f" * 64 + "\n")
        place = ProjectRef(self.repo, self.subject.settings, self.data)
        span = ["2013-01-03T00:00:00+00:00", "2013-01-10T00:00:00+00:00"]
        with recorded(place, "batch", range=["2013-01-01T00:00:00+00:00", span[1]], fingerprints={"view": "f" * 64}):
            pass
        with recorded(place, "train", model=MODEL, range=span) as run:
            fake_tandem.push(place, run)
        self.will_find(CALM)

    def add_day(self, day: date, events: int = 1) -> None:
        folder = self.data / "events" / "departures" / f"date={day}"
        folder.mkdir(parents=True)
        (folder / "part-0.jsonl").write_text((json.dumps({"id": "a", "at": f"{day}T10:00:00Z"}) + "\n") * events)

    def will_find(self, report: dict[str, Any]) -> None:
        """What the next run of the monitor reports."""
        (self.data / "next_report.json").write_text(json.dumps(report))

    def order(self, command: str, what: str | None) -> None:
        """How ``command`` goes from now on (None: well)."""
        path = self.data / "orders" / command
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if what is not None:
            path.write_text(what)

    @property
    def subject(self) -> Subject:
        watch = WatchSettings(promote=self.promotes)
        settings = Settings(data=self.data, tracking=TrackingSettings(trackers=[]), **{"watch": watch, **self.settings})
        return Subject(self.repo, settings, self.data, {"departures": SOURCE}, {"view": VIEW}, (MODEL,))

    def commands(self) -> list[str]:
        """The commands that were run so far."""
        log = self.data / "log"
        return log.read_text().split() if log.exists() else []

    def runs(self, kind: str) -> list[dict[str, Any]]:
        return [r.manifest for r in list_runs(self.data) if r.kind == kind]


class InProcess:
    """Commands run right here."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """See ``pipelines.watch.child_commands.Commands``."""
        try:
            return fake_tandem.main([*words, "--repo", str(self.world.repo), "--data", str(self.world.data)]), "said"
        except SystemExit as stop:
            return int(str(stop.code)), "error: the disk is full"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **length: float) -> datetime:
        self.now += timedelta(**length)
        return self.now
