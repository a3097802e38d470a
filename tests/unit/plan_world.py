"""A small repository with events, runs and a store of plain files, for what `tandem plan` says of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.batch.run_key import begin_of, declared, run_key, sources_of, superseded
from pipelines.lake import provenance, runs
from pipelines.lake.graphs import apply_graph, remember_definitions, since
from pipelines.lake.run_parts import InputFile
from pipelines.lake.value_code import meanings, modules_of, value_files
from pipelines.planning.plan_parts import Plan
from pipelines.planning.project_plan import make_plan
from pipelines.project.repository import Repo, load_repo
from pipelines.sources.event_files import inventory
from transforms.instants import micros_of

ROOT = Path(__file__).resolve().parents[2]
START, END = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 3, tzinfo=UTC)

FEATURES = """
from tandem.transforms.definitions import (
    Count, Csv, Entity, Epoch, EventSource, FeatureGroup, Field, Max, Mean, Sum, col, days, hours, minutes,
)

orders = EventSource(
    name="orders", event_time="at", tie_breaker="id", out_of_orderness=minutes(1), allowed_lateness=hours(1), files="events/orders",
    fields=[
        Field("id", "string", required=True),
        Field("shop", "string", required=True),
        Field("amount", "float64", max=100),
        Field("channel", "string", domain=["app", "web"]),
    ],
)
visits = EventSource(
    name="visits", event_time="seen", tie_breaker="id", files="events/visits",
    fields=[Field("id", "string", required=True), Field("page", "string", required=True), Field("seconds", "float64")],
)
shop_orders = FeatureGroup(
    name="shop_orders", source=orders, entity=Entity("shop"), hop=minutes(5), ttl=hours(48),
    aggregates=[Count(over=[hours(1), hours(24)]), Mean("amount", over=hours(1))], preprocessing_fn="scaling:shops",
)
channel_orders = FeatureGroup(
    name="channel_orders", source=orders, entity=Entity("shop", "id"), hop=hours(1), ttl=None, aggregates=[Sum("amount", over=hours(24))],
)
page_visits = FeatureGroup(
    name="page_visits", source=visits, entity=Entity("page"), hop=minutes(5), ttl=hours(48),
    aggregates=[Count(over=hours(1)), Max("seconds", over=hours(1))], preprocessing_fn="reading:pages",
)
"""
FILES = {
    "tandem.yaml": "data: ../data\ndefinitions: features\n",
    "features.py": FEATURES,
    "scaling.py": "from helpers import half\n\n\ndef shops(x):\n    return {'n': x['count_1h']}\n",
    "reading.py": "def pages(x):\n    return {'n': x['count_1h']}\n",
    "helpers.py": "half = 0.5\n",
    "model.py": "units = 32\n",
}


@dataclass
class Shop:
    """A repository below ``path`` beside its data folder, with event files of two days."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path / "repo"

    @property
    def data(self) -> Path:
        return self.path / "data"

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)
        for name in ("features", "scaling", "reading", "helpers", "model"):
            sys.modules.pop(name, None)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text, old
        self.write({name: text.replace(old, new, 1)})

    def repo(self) -> Repo:
        return load_repo(self.folder)

    def plan(self, *groups: str, asked: Any = None) -> Plan:
        return make_plan(self.repo(), groups, asked)

    def batch(
        self, *groups: str, pinned: bool = False, start: datetime = START, end: datetime = END, anew: bool = False
    ) -> tuple[str, bool]:
        """A run of these groups as ``tandem batch`` begins it, without Beam; its id, and whether it was made now."""
        repo = self.repo().only(groups)
        begin, sources = begin_of(repo.groups.values(), micros_of(start), micros_of(end)), sources_of(repo.groups.values())
        found = {n: inventory(self.data, s, begin[n], micros_of(end)).files for n, s in sources.items()}
        inputs: dict[str, list[InputFile]] = {
            n: [{"file": f.name, "size": f.size, "sha256": f.sha256} for f in files] for n, files in found.items()
        }
        graphs = {n: self.applied(n) for n in repo.groups} if pinned else {}
        complete = runs.RunStore(self.data).as_written("batch", "complete")
        run = runs.begin(
            self.data, "batch", run_key(repo, start, end, inputs, graphs), datetime.now(UTC),
            replaced=lambda r: superseded(r, complete, list(repo.groups), start, end),
        )  # fmt: skip
        if run.status == "complete":
            return run.id, False
        remember_definitions(self.data, repo.groups.values())
        outputs = []
        for n, g in repo.groups.items():
            learnt = [g.definition_hash(), (self.folder / "scaling.py").read_text(), (self.folder / "helpers.py").read_text()]
            learnt[1:] = learnt[1:] if n == "shop_orders" else []
            graphs.setdefault(n, hashlib.sha256(json.dumps(learnt).encode()).hexdigest())
            place = self.data / "graphs" / n / graphs[n]
            place.mkdir(parents=True, exist_ok=True)
            if not (place / "tandem.json").exists():
                made = {"definition_hash": g.definition_hash(), "outputs": [], "files": {}, "fingerprint": graphs[n]}
                (place / "tandem.json").write_text(json.dumps(made))
            outputs.append({"name": f"offline/{n}/x.parquet", "path": "x", "bytes": 10_000, "sha256": ""})
        code = value_files(provenance.engine_root(), repo.path, "features", {m for g in repo.groups.values() for m in modules_of(g)})
        run.save(
            definitions={n: json.loads(json.dumps(g.canonical())) for n, g in repo.groups.items()}, code={"value_files": meanings(code)},
            versions=provenance.library_versions(), settings=repo.settings.model_dump(mode="json"), fingerprints=graphs, pinned=pinned,
            declared={n: declared(g) for n, g in repo.groups.items()}, rows=dict.fromkeys(repo.groups, 100), outputs=outputs,
            range=[start.isoformat(), end.isoformat()], inputs=inputs, events={n: 50 * len(files) for n, files in inputs.items()},
            rejected_fields={"orders/not_in_domain/channel": 7}, status="complete",
        )  # fmt: skip
        return run.id, True

    def applied(self, group: str) -> str:
        return (self.data / "graphs" / group / "CURRENT").read_text().strip()

    def apply(self, run: str | None = None) -> None:
        """The graphs of the newest run of each group, or of ``run``, if they are of the definitions: as ``tandem apply`` does."""
        groups = self.repo().groups
        chosen: dict[str, Any] = {}
        for record in (r.record for r in runs.list_runs(self.data) if r.kind == "batch" and run in (None, r.id)):
            chosen |= {n: record for n in record.fingerprints if n in groups}
        assert chosen.keys() == groups.keys()
        for name, record in chosen.items():
            assert since(record.definitions[name], groups[name]) is not None, f"{name} was redefined after {record.id}"
            apply_graph(self.data, name, record.fingerprints[name])

    def load(self) -> None:
        """The record of a materialization."""
        repo = self.repo()
        done = runs.begin(self.data, "materialize", {"at": os.urandom(8).hex()}, datetime.now(UTC))
        done.save(status="complete", counts={f"rows/{n}": 12 for n in repo.groups}, fingerprints={n: self.applied(n) for n in repo.groups})

    def follow(self, plan: Plan) -> set[str]:
        """Run the commands of a plan; the groups that were made anew by it."""
        made: set[str] = set()
        for line in plan.commands:
            words = line.split()
            if words[1] == "batch":
                groups = [w for before, w in pairwise(words) if before == "--group"]
                assert (words[3], words[5]) == (f"{START:%Y-%m-%d}", f"{END:%Y-%m-%d}")
                _, anew = self.batch(*groups, pinned="--pinned" in words)
                made |= set(groups or self.repo().groups) if anew else set()
            elif words[1] == "apply":
                self.apply(words[3] if len(words) > 3 else None)
            elif words[1] == "materialize":
                self.load()
        return made


def make_shop(path: Path) -> Shop:
    made = Shop(path)
    made.folder.mkdir(parents=True)
    made.write(FILES)
    for source in ("orders", "visits"):
        for day in (1, 2):
            folder = made.data / f"events/{source}/date=2024-05-0{day}"
            folder.mkdir(parents=True)
            (folder / "all.jsonl").write_text(f'{{"source": "{source}", "day": {day}}}\n')
            long_ago = datetime(2024, 5, 4, tzinfo=UTC).timestamp()
            os.utime(folder / "all.jsonl", (long_ago, long_ago))
    return made


def recomputed(plan: Plan) -> set[str]:
    return {g.name for g in plan.groups if g.recomputed}


def signs(plan: Plan) -> dict[str, str]:
    return {g.name: g.sign for g in plan.groups}
