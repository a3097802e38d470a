"""A tracker: a line of JSON for each time that a run changed, in ``<data>/tracking/outside.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.pipelines.tracking.tracked_run import Record
from tandem.pipelines.tracking.tracker import Tracker


class JsonLines(Tracker):
    def deliver(self, record: Record, given: Mapping[str, Any]) -> Mapping[str, str]:
        line = {
            "run": record.id,
            "status": record.status,
            "parent": record.parent,
            "params": dict(record.params),
            "metrics": dict(record.metrics),
            "series": dict(record.series),
            "tags": dict(record.tags),
            "files": sorted(record.files),
            "made": {b.name: [b.kind, list(b.aliases)] for b in record.bundles},
        }
        if runs(self.data).get(record.id) != json.loads(json.dumps(line)):
            with open(place(self.data), "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return {"outside_run": record.id}


def place(data: Path) -> Path:
    """Where the lines are."""
    return data / "tracking" / "outside.jsonl"


def runs(data: Path) -> dict[str, dict[str, Any]]:
    """The last line of each run."""
    try:
        lines = place(data).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {line["run"]: line for line in map(json.loads, lines)}
