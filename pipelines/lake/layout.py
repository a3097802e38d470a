"""Where everything stands in the data folder: each path, once; and the number of its format. Light: standard library only.

A path given here need not exist. What training and serving both know stands in ``transforms.data_folder``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.lake.data_files import write_text
from transforms.data_folder import CURRENT, MANIFEST, SPEC_FILE, TREES, graphs, models, run, runs, snapshot, stream, streams
from transforms.errors import DataError, may_not_read
from transforms.locks import lock

__all__ = [
    "CURRENT", "CURVES", "EPOCHS", "FORMAT", "SPEC_FILE", "MANIFEST", "NOT_EVENTS", "REPORT", "REPORT_JSON", "REPORT_PAGE", "TFMA",
    "TREES", "alerts", "api_keys", "archive", "attempts", "audit", "check_format", "claim", "demo", "events", "experiments", "graph",
    "graphs", "identity_file", "labels", "materialize_lock", "mlflow_artifacts", "mlflow_store", "mlmd", "mlmd_logs", "model", "models",
    "monitor", "offline",
    "offline_run", "replay_clock", "reproduce", "requests", "run", "runs", "services", "snapshot", "stream", "streams", "tfx",
    "tracking", "training", "training_lock", "training_set", "verify", "watch",
]  # fmt: skip

FORMAT = 1
"""The format of the data folders that this version writes; kept in the file ``FORMAT`` of each. One without the file is of format 1."""

REPORT_JSON = "report.json"
"""The report of a monitor run or a proof, for machines (see ``report_records``); its page lies beside it."""
REPORT_PAGE = "report.html"
REPORT = "report"
"""The folder of a training run that holds what people look at; see the names below."""
EPOCHS = "epochs.json"
TFMA = "tfma.json"
CURVES = "curves.json"

NOT_EVENTS = (
    "runs", "training", "models", "tfx", "offline", "graphs", "stream", "requests", "labels", "monitor", "verify", "tracking", "alerts",
    "watch", "services", "replay", "reproduce", "demo", "audit", "archive", "access",
)  # fmt: skip
"""Folders that Tandem writes; a source's events stand in none of them."""


def archive(data: Path) -> Path:
    """How far topics are archived into event files."""
    return data / "archive"


def events(data: Path) -> Path:
    """Where events stand unless their sources say otherwise."""
    return data / "events"


def audit(data: Path) -> Path:
    """The audit log."""
    return data / "audit"


def identity_file(data: Path) -> Path:
    """Which data folder it is (see ``folder_identity``)."""
    return data / ".identity.json"


def attempts(data: Path) -> Path:
    """What attempts at runs are making: ``<run>/<attempt>/``, in the runs' own file system, and no part of a run."""
    return runs(data) / ".work"


def graph(data: Path, group: str, fingerprint: str) -> Path:
    """One transform graph."""
    return graphs(data) / group / fingerprint


def offline(data: Path) -> Path:
    """The feature rows of batch runs: ``<group>/run=<id>/<date>/*.parquet`` (the sources of Feast's views name it too)."""
    return data / "offline"


def offline_run(data: Path, group: str, run_id: str) -> Path:
    """The feature rows that one batch run made of a group."""
    return offline(data) / group / f"run={run_id}"


def training(data: Path) -> Path:
    """The training sets, a folder each."""
    return data / "training"


def training_set(data: Path, identity: str) -> Path:
    """One training set."""
    return training(data) / identity


def model(data: Path, name: str) -> Path:
    """All versions of one model."""
    return models(data) / name


def tfx(data: Path) -> Path:
    """What TFX keeps: artifacts by pipeline, ML Metadata, logs."""
    return data / "tfx"


def mlmd(data: Path) -> Path:
    """The store of ML Metadata (SQLite)."""
    return tfx(data) / "metadata.db"


def mlmd_logs(data: Path) -> Path:
    """What TFX's components said, a file per run."""
    return tfx(data) / "logs"


def mlflow_store(data: Path) -> Path:
    """The store of MLflow (SQLite), unless the settings name another."""
    return data / "mlflow.db"


def mlflow_artifacts(data: Path) -> Path:
    """The artifacts of that store."""
    return data / "mlartifacts"


def training_lock(data: Path) -> Path:
    """Held by the one training that may push."""
    return tfx(data) / "lock"


def materialize_lock(data: Path) -> Path:
    """Held by the one materialization at work."""
    return runs(data) / ".materialize.lock"


def experiments(data: Path, run_id: str) -> Path:
    """The data folder of a training that pushes nothing: its artifacts and models."""
    return tfx(data) / "experiments" / run_id


def requests(data: Path) -> Path:
    """The request log, unless the settings name another folder (see ``Settings.request_log``)."""
    return data / "requests"


def labels(data: Path, model: str) -> Path:
    """The labels that came for a model's answers."""
    return data / "labels" / model


def monitor(data: Path) -> Path:
    """The monitor's reports, a folder each."""
    return data / "monitor"


def verify(data: Path) -> Path:
    """The proofs of parity, a folder each."""
    return data / "verify"


def api_keys(data: Path) -> Path:
    """The hashes of the server's API keys."""
    return data / "access" / "api_keys.json"


def tracking(data: Path) -> Path:
    """What trackers are yet to be told, and what they said."""
    return data / "tracking"


def alerts(data: Path) -> Path:
    """The book of alerts."""
    return data / "alerts"


def watch(data: Path) -> Path:
    """What the watch noted, its locks and its log."""
    return data / "watch"


def services(data: Path) -> Path:
    """Local services: their data, logs and state."""
    return data / "services"


def replay_clock(data: Path) -> Path:
    """The time of a replay, for a server over replayed history."""
    return data / "replay" / "clock.json"


def reproduce(data: Path) -> Path:
    """What was made again, a folder each."""
    return data / "reproduce"


def demo(data: Path) -> Path:
    """The logs of the demo's children."""
    return data / "demo"


# ------------------------------------------------------------------------------------------------------------------------------ format

MIGRATIONS: Mapping[int, Callable[[Path], None]] = {}
"""How a folder of the format that is the key becomes one of the next; each may be cut short and begun again."""


def _format(data: Path) -> int:
    file = data / "FORMAT"
    try:
        text = file.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return 1
    except PermissionError as error:
        raise may_not_read(error) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); restore it: the format of this version is {FORMAT}") from None
    if not text.isdecimal():
        raise DataError(f"{file} holds {text[:20]!r} and not a number; restore it: the format of this version is {FORMAT}")
    return int(text)


def check_format(data: Path) -> None:
    """Migrate a data folder of an older format. Raises DataError for one of a newer format, and for one too old to be migrated."""
    if _format(data) == FORMAT:
        return
    with lock(data / ".format.lock"):
        while (found := _format(data)) != FORMAT:
            if found > FORMAT:
                raise DataError(f"{data} is of format {found}, and this version of Tandem knows {FORMAT}; install a newer one")
            step = MIGRATIONS.get(found)
            if step is None:
                raise DataError(f"{data} is of format {found}, and this version of Tandem reads {FORMAT}; choose a new folder with --data")
            step(data)
            write_text(data / "FORMAT", f"{found + 1}\n", durable=True)


def claim(data: Path) -> None:
    """Make the data folder one of this version's format, before something is written into it. Raises as ``check_format``."""
    check_format(data)
    if not (data / "FORMAT").exists():
        write_text(data / "FORMAT", f"{FORMAT}\n")
