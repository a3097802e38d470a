"""Commands in this process where the data lies on an object store, and a folder of data put there as other machines would have."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.lake import shared
from serving.object_store.cache import data_path
from serving.object_store.connecting import connect

__all__ = ["put_into_the_store", "tandem"]


def tandem(*words: str, code: int = 0) -> Any:
    """A command of this machine; what it prints as JSON."""
    sys.modules.pop("features", None)
    sys.modules.pop("labels", None)
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.stdout)


def put_into_the_store(plain: Path, url: str) -> None:
    """What batch, training and server of other machines put there: of a folder's content."""
    data = data_path(url)
    shutil.copytree(plain, data, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    store = connect(url)
    for run in sorted((plain / "runs").glob("*/manifest.json")):
        shutil.copytree(run.parent, data / "runs" / run.parent.name)
        for folder in (*data.glob(f"offline/*/run={run.parent.name}"), data / "runs" / run.parent.name):
            shared.publish(data, folder)
        store.put(f"manifests/{run.parent.name}.json", run.read_bytes())
    for folder in (*data.glob("graphs/*/*/"), *data.glob("training/*/"), *data.glob("models/*/*/")):
        shared.publish(data, folder)
    shared.send_files(data, ["events", "requests"])
