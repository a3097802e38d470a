"""Tandem's steps as a ZenML pipeline: batch, apply, materialize, and train for each model named.

    python pipeline.py --repo shop --start 2024-03-04 --end 2024-03-18 --train-start 2024-03-06 --model card_fraud

A step's artifact is the version of its data (hashes, see ``tandem runs version``): ZenML shows what went into what. TANDEM_COMMAND
says how the command is called where the steps run (default: tandem). Every step may run twice: the same rows, the same training are
found, not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
from typing import Any

from zenml import pipeline, step

COMMAND = shlex.split(os.environ.get("TANDEM_COMMAND", "tandem"))


def tandem(*words: str) -> str:
    """Run a command; what it printed. Its last line is the reason of a step that fails."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
    print(done.stderr, end="")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


@step
def batch(repo: str, start: str, end: str) -> dict[str, Any]:
    """Feature rows of the range; the run and the version of its data."""
    made = json.loads(tandem("batch", "--repo", repo, "--start", start, "--end", end, "--json"))
    return {"run": made["id"], **json.loads(tandem("runs", "version", made["id"], "--repo", repo))}


@step
def apply(repo: str, rows: dict[str, Any]) -> dict[str, str]:
    """The run's graphs applied; the fingerprint of each group's."""
    tandem("apply", "--repo", repo, "--run", rows["run"], "--reason", "ZenML")
    graphs: dict[str, str] = rows["graphs"]
    return graphs


@step
def materialize(repo: str, start: str, end: str, graphs: dict[str, str]) -> dict[str, str]:
    """The newest rows in the online store, of these graphs."""
    tandem("materialize", "--repo", repo, "--start", start, "--end", end)
    return graphs


@step
def train(repo: str, model: str, start: str, end: str, rows: dict[str, Any], graphs: dict[str, str]) -> int:
    """A version of the model, if it was good enough to be pushed."""
    words = ("--model", model, "--start", start, "--end", end, "--idempotency-key", rows["run"])
    version: int = json.loads(tandem("train", "--repo", repo, *words, "--json"))["version"]
    return version


@pipeline(enable_cache=False)  # what is there already, Tandem finds by itself
def features_to_models(repo: str, start: str, end: str, train_start: str, models: list[str]) -> None:
    """All steps."""
    rows = batch(repo, start, end)
    graphs = materialize(repo, start, end, apply(repo, rows))
    for model in models:
        train(repo, model, train_start, end, rows, graphs)


if __name__ == "__main__":
    flags = argparse.ArgumentParser()
    for name in ("repo", "start", "end"):
        flags.add_argument(f"--{name}", required=True)
    flags.add_argument("--train-start")
    flags.add_argument("--model", action="append", default=[])
    given = flags.parse_args()
    features_to_models(given.repo, given.start, given.end, given.train_start or given.start, given.model)
