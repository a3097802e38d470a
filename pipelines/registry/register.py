"""A pushed model becomes a version of the registry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.lake.run_records import RetrainRecord
from pipelines.lake.runs import list_runs
from pipelines.registry.alias_file import change, model_folder, versions_on_disk
from serving.aliases import Aliases, read_aliases
from transforms.errors import DataError

if TYPE_CHECKING:
    from pipelines.lake.runs import Run
    from pipelines.project.repository import Repo

__all__ = ["register", "register_forgotten"]


def register(repo: Repo, model_name: str, version_folder: Path, run: Run | None = None) -> None:
    """Make the version in ``version_folder`` (``data/models/<name>/<version>``) known: a model's first version becomes its champion,
    a later one its challenger.

    Cheap, and safe to repeat: it changes ``ALIASES.json`` alone; MLflow's Model Registry is caught up by
    :func:`pipelines.tracking.model_registry.catch_up`, which every command of the registry and ``tandem train`` call when they end.
    Raises DataError if the folder is no version of the model.
    """
    folder = model_folder(repo.data, model_name)
    if not version_folder.name.isdecimal() or version_folder.resolve().parent != folder.resolve():
        raise DataError(f"{version_folder} is not a version of model {model_name!r}; versions lie in {folder}")
    version = int(version_folder.name)

    def decide(now: Aliases) -> tuple[int | None, int | None] | None:
        if version in (now.champion, now.challenger) or any(version == e.get("version") for e in now.history):
            return None  # a second call
        return (version, None) if now.champion is None else (now.champion, version)

    made_by, reason = (run.id, _why(repo.data, run)) if run is not None else (None, "")
    change(folder, "register", decide, datetime.now(UTC), leaving_out=version, version=version, run=made_by, reason=reason)


def _why(data: Path, run: Run) -> str:
    """Why the watch trained; "" where somebody else did."""
    asked = next((r for r in list_runs(data) if r.id == run.head.parent and r.kind == RetrainRecord.KIND), None)
    if asked is None:
        return ""
    return "tandem watch, " + "; ".join(f"{t.get('name')}: {t.get('why')}" for t in asked.as_(RetrainRecord).triggers)


def register_forgotten(repo: Repo, model_name: str) -> list[int]:
    """Register versions that were pushed by a process that was killed before it came to it; returns them. Raises ModelError if
    ``ALIASES.json`` is damaged."""
    folder = model_folder(repo.data, model_name)
    aliases = read_aliases(folder, f"model {model_name!r}")
    if aliases is None:
        return []
    newest = max((int(e.get("version") or e.get("champion") or 0) for e in aliases.history), default=0)
    forgotten = [v for v in versions_on_disk(folder) if v > newest]
    for version in forgotten:
        register(repo, model_name, folder / str(version))
    return forgotten
