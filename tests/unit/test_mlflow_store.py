"""What a job says of MLflow's SQLite file before its deliverer has been there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pipelines.tracking.mlflow import MlflowTracker


def test_a_store_that_somebody_writes_is_no_problem(tmp_path: Path) -> None:
    """The deliverers of two jobs write it in turn, and wait for one another."""
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE runs (n)")
        store.commit()
        store.execute("BEGIN EXCLUSIVE")
        assert MlflowTracker.unreachable(f"sqlite:///{file}") == ""


def test_a_store_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"no database at all" * 100)
    said = MlflowTracker.unreachable(f"sqlite:///{file}")
    assert said == f"{file}: file is not a database; move it elsewhere if it is damaged, and run 'tandem track --all'"


def test_a_store_that_is_not_there_yet_is_no_problem(tmp_path: Path) -> None:
    assert MlflowTracker.unreachable(f"sqlite:///{tmp_path}/mlflow.db") == ""
