"""The deliverer's process as a job sees it: started, never waited for; and a quick look whether it can succeed."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.lake.processes import let_go, module_command, start_detached
from pipelines.tracking.outbox import Spool

if TYPE_CHECKING:
    from pipelines.project.config import Settings

__all__ = ["adopted", "problem", "shown", "start"]


def adopted(tracker: str, uri: str) -> dict[str, Any]:
    """What the environment says of MLflow's own run: inside ``mlflow run``, the outermost of our runs becomes that one."""
    root = os.environ.get("MLFLOW_RUN_ID", "")
    store = os.environ.get("MLFLOW_TRACKING_URI", uri)
    return {"mlflow_root": root, "uri": uri} if tracker == "mlflow" and root and store == uri else {}


def start(settings: Settings, data: Path) -> None:
    """Start a deliverer, unless one works already: it looks for new notes before it ends. Its words go to ``data/tracking/deliver.log``."""
    from pipelines.tracking.stores import tracking_uri

    spool = Spool(data)
    if spool.busy():
        return
    asked = {"data": str(data.resolve()), "tracking": settings.tracking.model_dump(mode="json"), "uri": tracking_uri(settings, data)}
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")}
    # It lives on when the job's terminal closes, and Ctrl-C is not for it.
    child = start_detached(module_command("pipelines.tracking.sync"), spool.folder / "deliver.log", environment, spool.folder)
    assert child.stdin is not None
    child.stdin.write(json.dumps(asked).encode())  # not as an argument: a URI may hold a password, and arguments are for all to see
    let_go(child)


def shown(uri: str) -> str:
    """A URI without its password."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return uri
    return parts._replace(netloc=f"{parts.hostname}{f':{parts.port}' if parts.port else ''}").geturl()


def problem(trackers: list[str], uri: str, spool: Spool) -> str | None:
    """Why runs wait to be told, in one line; None if all seems well. Takes a second at most, and loads nothing."""
    why = ""
    if "mlflow" in trackers:
        why = _unreachable(uri)
    if not why:
        found = {name: line for name, line in spool.troubles().items() if name in trackers}
        why = next(iter(found.values()), "")
    if not why:
        return None
    waiting = len({note.run for note in spool.notes()})
    runs = f"{waiting} run{'s wait' if waiting != 1 else ' waits'}"
    return f"tracking: {why}; {runs} in {spool.folder / 'spool'} for the next job, or 'tandem track'"


def _unreachable(uri: str) -> str:
    """Why a store cannot be reached, or nothing."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.hostname:
        try:
            socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), timeout=1).close()
        except OSError as error:
            return f"mlflow at {shown(uri)} does not answer ({error.strerror or error})"
    elif uri.startswith("sqlite:///") and (file := Path(uri.removeprefix("sqlite:///"))).exists():
        try:
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0.2) as store:
                store.execute("SELECT count(*) FROM sqlite_master").fetchone()
            store.close()
        except sqlite3.Error as error:
            return f"{file}: {error}; move it away if it is broken, and run 'tandem track --all'"
    return ""
