"""Environments of their own for what is compared with but not depended on: made in ``.cache/bench`` at the first use, kept there."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "bench"
PACKAGES = {
    "bytewax": ["bytewax==0.21.1", "confluent-kafka==2.5.3", "redis==5.2.1"],
    "pyflink": ["apache-flink==1.19.3", "setuptools<80"],
}
CONNECTOR = "org/apache/flink/flink-sql-connector-kafka/3.2.0-1.19/flink-sql-connector-kafka-3.2.0-1.19.jar"
CONNECTOR_SHA256 = "c3eda3cd295c1cdfb1dcbae4e0fd318d82e2dd6f073328e30cd79f1d9a990775"


class NotAvailable(Exception):
    """Why a rival cannot be measured here, one line."""


def python_of(name: str, say: Callable[[str], None]) -> Path:
    """The Python of an environment with these packages; made if it is not there. Raises NotAvailable."""
    folder = CACHE / name
    python, done = folder / "bin" / "python", folder / "packages.json"
    if done.is_file() and json.loads(done.read_text()) == PACKAGES[name]:
        return python
    own = ROOT / ".cache" / "boot" / "bin" / "uv"
    uv = str(own) if own.is_file() else shutil.which("uv")
    if uv is None:
        raise NotAvailable("there is no uv; run make once")
    say(f"making an environment for {name}: {', '.join(PACKAGES[name])}; this takes minutes, once")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--python", str(python), *PACKAGES[name]],
    ):
        made = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if made.returncode:
            raise NotAvailable(f"uv cannot install {name}: {(made.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    done.write_text(json.dumps(PACKAGES[name]))
    return python


def connector(say: Callable[[str], None]) -> Path:
    """Flink SQL's Kafka connector. Raises NotAvailable."""
    import requests

    from pipelines.services.jars import repositories

    path = CACHE / Path(CONNECTOR).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        say(f"fetching {path.name}")
        for url in repositories().values():
            try:
                answer = requests.get(f"{url}/{CONNECTOR}", timeout=120)
                answer.raise_for_status()
            except requests.RequestException:
                continue
            if hashlib.sha256(answer.content).hexdigest() == CONNECTOR_SHA256:
                path.write_bytes(answer.content)
                break
        else:
            raise NotAvailable(f"{path.name} cannot be fetched from {', '.join(repositories())}")
    return path


def run(python: Path, script: str, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a script of this folder prints as its last line. Raises NotAvailable with its last words."""
    words: Sequence[str] = [str(python), str(Path(__file__).with_name(script)), json.dumps(asked)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, cwd=CACHE)
    except subprocess.TimeoutExpired:
        raise NotAvailable(f"{script} did not end within {seconds:g} s") from None
    if done.returncode:
        raise NotAvailable(f"{script} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
