"""Runs to tell, without the work behind them; a real MLflow server; and what trackers hold, read back."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipelines.workflow  # noqa: F401  # so that what these tests record is tracked, as by every command
from tandem.testing.tracker import TrackedRun, home, training

__all__ = ["TrackedRun", "free_port", "home", "mlflow_runs", "mlflow_server", "training", "wandb_runs"]


def mlflow_runs(uri: str) -> dict[str, TrackedRun]:
    """MLflow's runs by ours. Those of ``mlflow run`` that never came to a run of ours are left out; where it was begun again, and ours went
    on, the later one is given."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)

    def files(number: str, folder: str | None = None) -> set[str]:
        found: set[str] = set()
        for one in client.list_artifacts(number, folder):
            found |= files(number, one.path) if one.is_dir else {one.path}
        return found

    runs = [r for e in client.search_experiments() for r in client.search_runs([e.experiment_id])]
    ours = {r.info.run_id: r.data.tags.get("tandem.run", "") for r in runs}
    out: dict[str, TrackedRun] = {}
    for r in runs:
        number, tags = r.info.run_id, dict(r.data.tags)
        steps = {m: {p.step: p.value for p in client.get_metric_history(number, m)} for m in r.data.metrics if m.startswith("epoch/")}
        sets = {i.dataset.name: ("dataset", [i.dataset.digest]) for i in (r.inputs.dataset_inputs if r.inputs else [])}
        if not ours[number]:
            assert tags.get("mlflow.project.entryPoint"), "it is nobody's"
            continue
        if ours[number] in out:
            assert tags.get("mlflow.project.entryPoint") and out[ours[number]].tags.get("mlflow.project.entryPoint"), "told twice"
            continue  # MLflow gives the latest first
        parent = ours.get(tags.get("mlflow.parentRunId", ""))
        out[ours[number]] = TrackedRun(r.info.status, parent, dict(r.data.params), dict(r.data.metrics), steps, tags, files(number), sets)
    return out


def _log_records(data: bytes, block: int = 32_768, header: int = 7) -> Iterator[bytes]:
    """The records of W&B's file: LevelDB's log format (per piece: checksum, length, kind) behind seven bytes of W&B's own."""
    at, pieces = header, b""
    while at + header <= len(data):
        if block - at % block < header:  # a piece's header never crosses the end of a block
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        pieces += data[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # whole, or its last piece
            yield pieces
            pieces = b""


def wandb_runs(data: Path) -> dict[str, TrackedRun]:
    """The offline runs of Weights & Biases in a data folder, from its own log files."""
    from wandb.proto import wandb_internal_pb2

    proto: Any = wandb_internal_pb2  # what it has depends on protobuf's version: star imports that no type checker follows
    out: dict[str, TrackedRun] = {}
    for file in (data / "tracking" / "wandb").glob("offline-run-*/*.wandb"):
        told, name = TrackedRun("", None, {}, {}, {}, {}), ""
        for read in _log_records(file.read_bytes()):
            record = proto.Record.FromString(read)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                config = {u.key: json.loads(u.value_json) for u in record.run.config.update}
                name, told.tags = record.run.run_id, config.pop("tandem", {})
                told.parent = record.run.run_group if record.run.run_group != name else None
                told.params = {k: str(v) for k, v in config.items() if k != "_wandb"}
            elif kind == "history":
                item = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                for metric, value in item.items():
                    if metric.startswith("epoch/"):
                        told.steps.setdefault(metric, {})[int(item["epoch"])] = value
            elif kind == "summary":
                told.metrics |= {"/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in record.summary.update}
            elif kind == "artifact" and record.artifact.type == "run":
                told.files |= {entry.path for entry in record.artifact.manifest.contents}
            elif kind == "artifact":
                told.bundles[record.artifact.name] = (record.artifact.type, sorted(record.artifact.aliases))
            elif kind == "exit":
                told.status = "FAILED" if record.exit.exit_code else "FINISHED"
        assert name not in out, "told twice"
        out[name] = told
    return out


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A real MLflow server over a store in ``folder``; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "artifacts")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # evaluations of language models: five processes that nobody asks
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
