"""Which trackers get runs, and where their stores are. Light at import."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.lake import layout
from pipelines.project.secrets import masked
from transforms.plain_paths import plain_path

if TYPE_CHECKING:
    from pipelines.project.config import Settings

__all__ = ["TRACKING_URI", "artifact_root", "error_text", "shown", "store_file", "trackers", "tracking_uri"]

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""MLflow's own variable of the environment."""


def tracking_uri(settings: Settings, data: Path) -> str:
    """The URI of the MLflow store: the setting, else ``MLFLOW_TRACKING_URI`` (as MLflow itself), else SQLite in the data folder."""
    return settings.tracking.uri or os.environ.get(TRACKING_URI, "") or f"sqlite:///{layout.mlflow_store(plain_path(data.resolve()))}"


def shown(uri: str) -> str:
    """A URI without its user and password, and without what is secret in its query."""
    return masked(uri).replace("://***@", "://", 1)


def store_file(uri: str) -> Path | None:
    """The file of a SQLite store, whatever options follow its path (``sqlite:///...?timeout=20``); None for other stores, one in memory and
    one that is named as SQLite's own URI (``sqlite:///file:...``)."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(found[1]) if found and found[1] != ":memory:" and not found[1].startswith("file:") else None


def artifact_root(uri: str, data: Path) -> str | None:
    """Where a new experiment keeps its artifacts: below the data folder for a local store; a server decides for itself (None)."""
    return None if "://" in uri and not uri.startswith(("sqlite:", "sqlite+")) else layout.mlflow_artifacts(data.resolve()).as_uri()


def trackers(settings: Settings) -> list[str]:
    """The trackers to tell; one that nobody asked for by name and that is not installed is left out."""
    asked = "trackers" in settings.tracking.model_fields_set
    return [name for name in settings.tracking.trackers if asked or find_spec(name) is not None]


def error_text(error: BaseException) -> str:
    """What a tracker's library says, on one short line; without passwords, as it repeats the address that it was given."""
    return masked(" ".join(str(error).split()))[:200]
