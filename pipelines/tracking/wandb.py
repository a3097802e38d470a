"""Runs and artifacts in Weights & Biases; offline they are written to ``data/tracking/wandb`` for ``wandb sync``."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.lake.layout import REPORT
from pipelines.project.config import TrackingSettings
from pipelines.tracking.plots import draw
from pipelines.tracking.tracked_run import Record
from pipelines.tracking.tracker import Tracker

__all__ = ["WandbTracker"]


def _name(text: str) -> str:
    """A name that Weights & Biases takes."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "-", text)[:128]


def _value(text: str) -> Any:
    """A parameter as what it was: a number is one again."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class WandbTracker(Tracker):
    """A run is sent once it is over: an offline run cannot be taken up again. Sent again unchanged, nothing is written."""

    only_ended = True
    library = install = "wandb"

    def __init__(self, settings: TrackingSettings, uri: str, data: Path) -> None:
        super().__init__(settings, uri, data)
        self.project, self.mode = _name(settings.experiment), settings.wandb_mode
        self.folder = layout.tracking(data.resolve())
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, value in (
            ("WANDB_SILENT", "true"),
            ("WANDB_ERROR_REPORTING", "false"),
            ("WANDB_CACHE_DIR", str(self.folder / "wandb-cache")),
        ):
            os.environ.setdefault(name, value)
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder / "wandb-staging"))

    def close(self) -> None:
        """End the service process of the library."""
        import wandb

        wandb.teardown()

    def deliver(self, record: Record, given: Mapping[str, Any]) -> Mapping[str, str]:
        """See :class:`pipelines.tracking.tracker.Tracker`."""
        if (self.folder / "told").is_dir():  # as 0.1 called it
            with suppress(OSError):
                (self.folder / "told").rename(self.folder / "synced")
        synced = self.folder / "synced" / f"{record.id}.json"
        sizes = {name: f.stat().st_size for name, f in record.files.items() if name != layout.MANIFEST}  # that one gets our links
        said = (record.status, record.ended, record.params, record.metrics, record.series, record.bundles, sizes)
        content = hashlib.sha256(repr(said).encode()).hexdigest()
        before = json.loads(synced.read_text()) if synced.exists() else {}
        if before.get("content") == content and before.get("mode") == self.mode:
            return dict(before["links"])
        links = self._write(record)
        write_json(synced, {"content": content, "mode": self.mode, "links": links}, indent=None)
        return links

    def _write(self, record: Record) -> dict[str, str]:
        import wandb

        run = wandb.init(
            project=self.project,
            id=_name(record.id),
            name=record.id,
            group=record.parent or record.id,
            job_type=record.kind,
            config={**{name: _value(text) for name, text in record.params.items()}, "tandem": dict(record.tags)},
            mode=self.mode,
            dir=str(self.folder),
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True, init_timeout=30
            ),
        )
        code = 0 if record.status == "complete" else 1
        try:
            self._values(run, record)
            with draw(record) as pictures:
                files = {**record.files, **{f"{REPORT}/{p.name}": p for p in pictures}}
                self._bundles(run, record, files)
                run.finish(exit_code=code)
        except BaseException:
            run.finish(exit_code=1)
            raise
        return {
            "wandb_run": f"{self.project}/{_name(record.id)}",
            "wandb_folder": str(Path(run.dir).parent) if self.mode == "offline" else run.url or "",
        }

    @staticmethod
    def _values(run: Any, record: Record) -> None:
        steps = sorted({step for points in record.series.values() for step, _ in points})
        if steps:
            run.define_metric("epoch")
            for name in record.series:
                run.define_metric(name, step_metric="epoch")
        by_name = {name: dict(points) for name, points in record.series.items()}
        for step in steps:
            run.log({"epoch": step, **{name: points[step] for name, points in by_name.items() if step in points}})
        run.summary.update(dict(record.metrics))

    def _bundles(self, run: Any, record: Record, files: Mapping[str, Path]) -> None:
        """The data set by reference (it may be large), graph and model by content; the manifest and the report as one artifact."""
        import wandb

        about = wandb.Artifact(_name(f"{record.id}-record"), type="run")
        for name, file in files.items():
            about.add_file(str(file), name=name)
        run.log_artifact(about, aliases=[record.status])
        for bundle in record.bundles:
            artifact = wandb.Artifact(
                _name(bundle.name), type=bundle.kind, metadata={**bundle.facts, "version": bundle.version, "run": record.id}
            )
            if bundle.kind == "dataset":
                artifact.add_reference(bundle.folder.resolve().as_uri(), name=bundle.kind)
            else:
                artifact.add_dir(str(bundle.folder))
            run.log_artifact(artifact, aliases=["latest", *map(_name, bundle.aliases)])
