"""Changing ``ALIASES.json``: one writer at a time, one rename per change, one line of history for each. Light at import.

The file is the truth about what is served; MLflow's aliases follow it (:mod:`pipelines.tracking.model_registry`).
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.lake import layout, shared
from pipelines.lake.data_files import write_bytes
from serving.aliases import ALIASES_FILE, Aliases, read_aliases
from serving.request_errors import ModelError
from transforms.errors import DataError

__all__ = ["MovedError", "change", "current", "model_folder", "models_of", "versions_on_disk", "who"]

LOCK = ".aliases.lock"


class MovedError(DataError):
    """Somebody else changed the aliases meanwhile."""


def model_folder(data: Path, model: str) -> Path:
    """The folder of a model's versions."""
    return layout.model(data, model)


def models_of(data: Path) -> list[str]:
    """The models that have a folder, by name."""
    folder = layout.models(data)
    for name in shared.have_names(data, "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []


def versions_on_disk(folder: Path) -> list[int]:
    """The versions in a model's folder, rising."""
    for name in shared.have_names(folder.parents[1], f"models/{folder.name}"):
        shared.have(folder.parents[1], folder / name)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and str(int(p.name)) == p.name and p.is_dir())


def current(folder: Path, leaving_out: int | None = None) -> Aliases:
    """The aliases now. A model that has versions but no file (they were pushed before there were aliases) has its newest as champion, as
    serving takes it; ``leaving_out``: but for the one that is being registered. Raises ModelError for a damaged file."""
    found = read_aliases(folder, f"model {folder.name!r}")
    if found is not None:
        return found
    versions = [v for v in versions_on_disk(folder) if v != leaving_out]
    return Aliases(versions[-1], None, ({"n": 0, "action": "found", "champion": versions[-1]},)) if versions else Aliases()


def who() -> str:
    """Who does it: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def change(
    folder: Path,
    action: str,
    decide: Callable[[Aliases], tuple[int | None, int | None] | None],
    now: datetime,
    *,
    repair: bool = False,
    leaving_out: int | None = None,
    **details: Any,
) -> Aliases:
    """Set (champion, challenger) to what ``decide`` makes of the aliases as they are; None leaves them alone.

    ``decide`` runs under the lock and may raise: nothing is changed then. ``details`` go into the entry of the history (what is None or
    empty is left out). A process killed here leaves the old file or the new one. ``repair``: a damaged file is set aside and begun anew.
    """
    with shared.alone(folder.parents[1], folder / LOCK):
        for left_over in folder.glob(f".{ALIASES_FILE}.*"):
            with suppress(OSError):
                left_over.unlink()  # of a killed process; we hold the lock
        try:
            before = current(folder, leaving_out)
        except ModelError:
            if not repair:
                raise
            aside = f"{ALIASES_FILE}.damaged-{now.astimezone(UTC):%Y%m%dT%H%M%S}"
            (folder / ALIASES_FILE).rename(folder / aside)
            before, details = Aliases(), {**details, "damaged": aside}
        chosen = decide(before)
        if chosen is None:
            return before
        champion, challenger = chosen
        entry: dict[str, Any] = {
            "n": 1 + max((int(e.get("n", 0)) for e in before.history), default=0),
            "at": now.astimezone(UTC).isoformat(timespec="seconds"),
            "action": action,
            "champion": champion,
            "challenger": challenger,
            "before": {"champion": before.champion, "challenger": before.challenger},
            "by": who(),
            **{k: v for k, v in details.items() if v not in (None, "", [], {}, False)},
        }
        history = (*before.history, entry)
        for version in sorted({champion, challenger} - {None}):  # type: ignore[type-var]
            shared.publish(folder.parents[1], folder / str(version), only=True)
        _write(folder, {"champion": champion, "challenger": challenger, "history": list(history)})
        return Aliases(champion, challenger, history)


def _write(folder: Path, value: dict[str, Any]) -> None:
    file = folder / ALIASES_FILE
    content = json.dumps(value, indent=1, default=str).encode() + b"\n"
    shared.move(folder.parents[1], file, lambda new: write_bytes(file, new, durable=True), content)
