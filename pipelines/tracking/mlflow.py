"""Runs in MLflow Tracking, embedded (SQLite) or on a server."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from pipelines.lake import layout
from pipelines.project.config import TrackingSettings
from pipelines.project.secrets import masked
from pipelines.tracking.plots import draw
from pipelines.tracking.stores import TRACKING_URI, artifact_root, error_text, shown, store_file
from pipelines.tracking.tracked_run import Record
from pipelines.tracking.tracker import Tracker
from transforms.errors import ConfigError
from transforms.locks import lock

__all__ = ["MlflowTracker", "make_whole"]

# A server that is down is asked again by the outbox, which does not wait minutes for it. Read when MLflow makes a request.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_DISABLE_TELEMETRY": "true"}
_STATUS = {"running": "RUNNING", "complete": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_BATCH = {"params": 100, "tags": 100, "metrics": 1000}


class MlflowTracker(Tracker):
    """Runs are found again by their tag ``tandem.run``."""

    library = "mlflow"
    install = "'tandem-features[tracking]'"

    def __init__(self, settings: TrackingSettings, uri: str, data: Path) -> None:
        super().__init__(settings, uri, data)
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.experiment = settings.experiment
        self._clients: dict[str, Any] = {}
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    @classmethod
    def given(cls, uri: str) -> dict[str, Any]:
        """What the environment says of MLflow's own run: inside ``mlflow run``, the outermost of our runs becomes that one."""
        root = os.environ.get("MLFLOW_RUN_ID", "")
        store = os.environ.get(TRACKING_URI, uri)
        return {"mlflow_root": root, "uri": masked(uri)} if root and store == uri else {}

    @classmethod
    def unreachable(cls, uri: str) -> str:
        """Asks for a connection, or whether the file is a database."""
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and parts.hostname:
            try:
                socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), timeout=1).close()
            except OSError as error:
                return f"mlflow at {shown(uri)} does not respond ({error.strerror or error})"
        elif (file := store_file(uri)) is not None and file.exists():
            try:
                with sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2) as store:
                    store.execute("SELECT count(*) FROM sqlite_master").fetchone()
                store.close()
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    return ""  # another job's deliverer, or MLflow's own server, writes it now; ours waits and tries again
                return f"{file}: {error}; move it elsewhere if it is damaged, and run 'tandem track --all'"
        return ""

    @classmethod
    def place(cls, uri: str) -> str:
        """The store."""
        return shown(uri)

    def caught_up(self, say: Callable[[str], None]) -> None:
        """The Model Registry follows once the runs are there: its versions name the runs that made them."""
        from pipelines.tracking.model_registry import catch_up

        try:
            catch_up(self.data, self.uri, self.experiment, say)
        except Exception as error:  # whatever MLflow's client raises; the next run's deliverer tries again
            say(f"MLflow's registry could not be updated ({type(error).__name__}: {error_text(error)})")

    def close(self) -> None:
        """Nothing is held open."""
        self._clients.clear()

    def _client(self, uri: str) -> Any:
        from mlflow.tracking import MlflowClient

        if uri not in self._clients:
            if (file := store_file(uri)) is not None:
                make_whole(file)
            self._clients[uri] = MlflowClient(uri, registry_uri=uri)
        return self._clients[uri]

    def _experiment(self, client: Any) -> str:
        if (known := self._experiments.get(self.experiment)) is not None:
            return known
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            number = str(client.create_experiment(self.experiment, artifact_location=artifact_root(self.uri, self.data)))
        else:
            number = str(found.experiment_id)
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(number)
        self._experiments[self.experiment] = number
        return number

    def _find(self, client: Any, experiment: str, run: str) -> str | None:
        """MLflow's run for one of ours, deleted ones left alone."""
        if run not in self._runs:
            found = client.search_runs([experiment], f"tags.`tandem.run` = '{run}'", max_results=1)
            if not found:
                return None
            self._runs[run] = found[0].info.run_id
        return self._runs[run]

    def deliver(self, record: Record, given: Mapping[str, Any]) -> Mapping[str, str]:
        """See :class:`pipelines.tracking.tracker.Tracker`."""
        uri, root = str(given.get("uri") or ""), str(given.get("mlflow_root") or "")
        if uri in ("", masked(self.uri), shown(self.uri)):  # a note has it without its password; shown: of an earlier version
            uri = self.uri
        elif "***" in uri:  # MLflow would log in with the mask
            place = layout.tracking(self.data) / "outbox" / "mlflow"
            raise ConfigError(
                f"it belongs to {shown(uri)}, whose password is not kept; set tracking.uri back, or delete its note in {place}"
            )
        client = self._client(uri)
        outer = client.get_run(root) if root else None
        experiment = str(outer.info.experiment_id) if outer is not None else self._experiment(client)
        if outer is not None and record.parent is None:
            current = outer
        else:
            found = self._find(client, experiment, record.id)
            tags = _cut({**record.tags, **self._parent(client, experiment, record)})
            current = client.get_run(found) if found else client.create_run(experiment, record.begun, tags, run_name=record.id)
        number = str(current.info.run_id)
        self._runs[record.id] = number
        self._values(client, number, current, record)
        if record.over:
            self._artifacts(client, number, record)
            client.set_terminated(number, _STATUS[record.status], record.ended)
        elif current.info.status != "RUNNING":
            client.update_run(number, "RUNNING")
        return {"mlflow_run": number, "mlflow_experiment": experiment, "mlflow_store": shown(uri)}

    def _parent(self, client: Any, experiment: str, record: Record) -> dict[str, str]:
        above = self._runs.get(record.parent) or self._find(client, experiment, record.parent) if record.parent else None
        return {"mlflow.parentRunId": above} if above else {}

    def _values(self, client: Any, number: str, current: Any, record: Record) -> None:
        from mlflow.entities import Metric, Param, RunTag

        known = current.data.params
        params = []
        for name, value in record.params.items():
            name, value = name[:250], value[:6000]
            if (
                name in known and known[name] != value
            ):  # a parameter of an MLproject, written by MLflow in its own way, or of an earlier try
                name = f"tandem.{name}"[:250]
            if known.get(name, value) == value and name not in known:
                params.append(Param(name, value))
        at = record.ended or record.begun  # not now: sent again, it is the same point
        metrics = [Metric(name, value, at, 0) for name, value in record.metrics.items() if name not in record.series]
        for name, points in record.series.items():
            metrics += [Metric(name, value, at, step) for step, value in points]
        adopted = {"mlflow.source.name", "mlflow.source.git.commit"} & set(current.data.tags)
        tags = [RunTag(name, value) for name, value in _cut(record.tags).items() if name not in adopted]
        for key, values in (("params", params), ("tags", tags), ("metrics", metrics)):
            for first in range(0, len(values), _BATCH[key]):
                client.log_batch(number, **{key: values[first : first + _BATCH[key]]})

    def _artifacts(self, client: Any, number: str, record: Record) -> None:
        for name, file in record.files.items():
            client.log_artifact(number, str(file), str(Path(name).parent) if "/" in name else None)
        with draw(record) as pictures:
            for file in pictures:
                client.log_artifact(number, str(file), layout.REPORT)
        self._inputs(client, number, record)

    def _inputs(self, client: Any, number: str, record: Record) -> None:
        """The training set, as MLflow shows what a run was fed."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        sets = [
            DatasetInput(
                Dataset(b.name, b.version[:36], "local", f'{{"uri": "{b.folder.as_uri()}"}}'), [InputTag("mlflow.data.context", "training")]
            )
            for b in record.bundles
            if b.kind == "dataset"
        ]
        if sets:
            client.log_inputs(number, sets)


def make_whole(store: Path) -> None:
    """Make a store (SQLite) that is not there, with all of its tables or not at all.

    MLflow makes them one after the other and goes on with none that it finds half made, so whoever is killed meanwhile would leave a store
    that takes no run any more; and what a container's first process has started is killed when that one ends."""
    from mlflow.tracking import MlflowClient

    store = Path(os.path.realpath(store))  # a link's target is what is made
    store.parent.mkdir(parents=True, exist_ok=True)
    if store.exists():
        return
    with TemporaryDirectory(prefix=".mlflow-", dir=store.parent) as folder:
        made = Path(folder) / store.name
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        # By a lock and a new name, not by a hard link: some shared file systems have none.
        with lock(store.with_name(f".{store.name}.lock")):
            if not store.exists():  # else somebody else was first
                made.rename(store)


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {name[:250]: value[:5000] for name, value in tags.items()}
