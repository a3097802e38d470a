"""A few real days of January 2013 beside a copy of the feature repository, batch runs over them, and what they must hold.

A *light* copy has the same groups without preprocessing functions and without Feast, so that a run takes two seconds
instead of half a minute.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.batch_job import BatchResult, run_batch
from pipelines.project.repository import Repo, load_repo
from tests.oracle.compare import to_dicts
from transforms.definitions import FeatureGroup, micros

ROOT = Path(__file__).resolve().parents[2]
FIRST, LAST = date(2013, 1, 3), date(2013, 1, 9)
"""Days of the event logs; the last is left out."""
START, END = datetime(2013, 1, 5, tzinfo=UTC), datetime(2013, 1, 8, tzinfo=UTC)
"""The range of the runs: events lie before it (to look back to) and after it (to ignore)."""
NOW = datetime(2013, 2, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(moment: datetime) -> int:
    """Microseconds of UTC."""
    return micros(moment - EPOCH)


@dataclass(frozen=True)
class World:
    """A copy of the feature repository with data beside it."""

    folder: Path

    @property
    def repo_path(self) -> Path:
        return self.folder / "feature_repo"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def repo(self) -> Repo:
        return load_repo(self.repo_path)

    def run(self, start: datetime = START, end: datetime = END, *, now: datetime = NOW, **options: Any) -> BatchResult:
        """A batch run in this process."""
        return run_batch(self.repo(), start, end, now=now, **options)

    def configure(self, **batch: Any) -> None:
        """Set settings of tandem.yaml's batch section."""
        lines = ["data: ../data", "definitions: features", "batch:", *(f"  {k}: {v}" for k, v in batch.items())]
        (self.repo_path / "tandem.yaml").write_text("\n".join(lines) + "\n")

    def command(self, *words: str) -> list[str]:
        """A command line of ``tandem``."""
        return [sys.executable, "-m", "pipelines.cli", *words]

    def batch_command(self) -> list[str]:
        """The batch run as a command."""
        return self.command("batch", "--repo", str(self.repo_path), "--start", f"{START:%Y-%m-%d}", "--end", f"{END:%Y-%m-%d}", "--json")

    def visible(self) -> dict[str, list[str]]:
        """Group -> runs that have visible rows of it."""
        offline = self.data / "offline"
        runs = {
            p.name: sorted({f.parents[1].name.removeprefix("run=") for f in p.glob("*/*/*.parquet")}) for p in sorted(offline.glob("*"))
        }
        return {group: ids for group, ids in runs.items() if ids}


def environment() -> dict[str, str]:
    """The environment of a command."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def make_logs(data: Path) -> None:
    """The event logs of :data:`FIRST` to :data:`LAST`, as the repository's own command writes them."""
    script = ROOT / "feature_repo" / "flights_events.py"
    words = [sys.executable, str(script), "--data", str(data), "--start", str(FIRST), "--end", str(LAST)]
    subprocess.run(words, check=True, env=environment(), capture_output=True)


def make_world(folder: Path, logs: Path, *, light: bool = True) -> World:
    """A copy of the repository in ``folder``, with the event logs of the data folder ``logs``."""
    world = World(folder)
    world.repo_path.mkdir(parents=True)
    for path in (ROOT / "feature_repo").iterdir():
        if path.is_file():
            shutil.copy(path, world.repo_path / path.name)
    if light:
        definitions = world.repo_path / "features.py"
        text, _, _ = definitions.read_text().partition("\nviews = ")  # what follows is for Feast
        text = re.sub(r"^from (feast|tandem\.pipelines\.feature_store\.views) import .*\n", "", text, flags=re.MULTILINE)
        definitions.write_text(re.sub(r'\s*preprocessing_fn="[^"]*",', "", text))
    shutil.copytree(logs / "events", world.data / "events")
    return world


def offline_rows(data: Path, group: FeatureGroup, run_id: str) -> pa.Table:
    """All columns of the rows of one run, sorted by keys and event timestamp."""
    files = sorted((data / "offline" / group.name / f"run={run_id}").rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files])
    return table.sort_by([(k, "ascending") for k in [*group.entity.keys, "event_timestamp"]]).combine_chunks()


def feature_rows(data: Path, group: FeatureGroup, run_id: str) -> list[dict[str, Any]]:
    """The rows of a run without what the graph and the run add to them; every column has the type of the definition."""
    table = offline_rows(data, group, run_id).select(group.row_schema.names)
    assert [f.type for f in table.schema] == [f.type for f in group.row_schema]
    return to_dicts(table)


def all_feature_rows(world: World, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """:func:`feature_rows` of every group."""
    return {name: feature_rows(world.data, group, run_id) for name, group in world.repo().groups.items()}


def log_events(data: Path, source: str, keep: Callable[[str], bool] = lambda name: True) -> list[dict[str, Any]]:
    """The events of a Parquet log as the oracle takes them."""
    out: list[dict[str, Any]] = []
    for path in sorted((data / "events" / source).rglob("part-*.parquet")):
        if keep(path.name):
            out += to_dicts(pq.read_table(path, partitioning=None))
    return out


def of_keys(rows: Sequence[dict[str, Any]], group: FeatureGroup, keys: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The rows or events of some entities."""
    return [r for r in rows if tuple(r[k] for k in group.entity.keys) in keys]
