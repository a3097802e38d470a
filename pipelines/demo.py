"""``tandem demo``: every command in a row, over real events, with a summary at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import typer
from rich.console import Console

from pipelines import cli
from pipelines.console import Steps
from pipelines.repo import Repo
from transforms.errors import TandemError

__all__ = ["run_demo"]


def run_demo(repo: Repo, start: datetime, end: datetime, as_json: bool) -> None:
    """Events to a served model over [start, end); prints a summary (or JSON)."""
    steps = Steps()
    steps.say(f"real events of {start:%Y-%m-%d} to {end:%Y-%m-%d} (UTC); any part of the log works: --start, --end")
    cli.make_events(repo, f"{start:%Y-%m-%d}", f"{end:%Y-%m-%d}", steps)
    manifest = cli.do_batch(repo, start, end, steps)
    cli.do_apply(repo, manifest["id"], steps)
    cli.do_materialize(repo, start, end, steps)
    begin = start + timedelta(days=repo.settings.demo.warm_up_days)
    trained = cli.do_train(repo, begin, end, steps)
    if trained.pushed is None:
        steps.say(f"not blessed, so not pushed; the version before stays, if there is one: {'; '.join(trained.pipeline.reasons)}")
    if not (repo.data / "models" / trained.model).is_dir():
        raise TandemError(
            f"model {trained.model!r} has no blessed version to serve; give it more data (--start, --end) or other thresholds"
        )
    answer, millis = ask(repo, trained.model, end, steps)
    summary = {
        "run": manifest["id"],
        "events": manifest["events"],
        "rejected": manifest["rejected"],
        "rows": manifest["rows"],
        "training_run": trained.run,
        "version": trained.version,
        "scores": trained.report.to_dict(),
        "answer": answer,
        "milliseconds": millis,
        "seconds": round(time.monotonic() - steps.begun, 1),
    }
    if as_json:
        typer.echo(json.dumps(summary, indent=2, default=str))
        return
    from pipelines.training.report import render

    out = Console(soft_wrap=True)
    out.print()
    out.print(cli.run_table(manifest))
    out.print()
    out.print(render(trained.report))
    out.print()
    out.print("One answer of the server:")
    out.print_json(json.dumps(answer))
    out.print(f"asked over HTTP, half of the requests within {millis:.1f} ms. All of it took {summary['seconds']} s.")
    out.print(
        f"Next: tandem serve --as-of {end:%Y-%m-%d}   then open http://127.0.0.1:8500/docs;   tandem runs;   feast ui (in {repo.path.name})"
    )


@contextmanager
def server(repo: Repo, as_of: datetime) -> Iterator[str]:
    """``tandem serve`` as a child process on a free port; yields its address once it is ready, and stops it."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = repo.data / "serve.log"
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--repo", str(repo.path), "--data", str(repo.data), "--port", str(port)]
    with open(log, "wb") as sink:
        child = subprocess.Popen([*command, "--as-of", as_of.isoformat()], stdout=sink, stderr=sink)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            if child.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise TandemError(f"the server did not start: {lines[-1] if lines else 'no output'}; see {log}")
            try:
                with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield address
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()


def post(url: str, body: Any) -> dict[str, Any]:
    """POST JSON, return JSON; raises TandemError with the server's own line."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.loads(response.read())
            return answer
    except urllib.error.HTTPError as error:
        raise TandemError(f"{url} answered {error.code}: {error.read().decode(errors='replace')[:300]}") from None


def ask(repo: Repo, name: str, as_of: datetime, steps: Steps) -> tuple[dict[str, Any], float]:
    """Ask the served model for the newest requests of the training set's last day; (one answer with its question, median ms)."""
    model = next(m for m in map(repo.attribute, repo.settings.models) if m.name == name)
    spine = repo.attribute(model.spine)(repo.data, as_of - timedelta(days=1), as_of)
    columns = list(dict.fromkeys([*model.entity_keys, *(f.name for f in model.request_fields)]))
    asked = spine.slice(max(spine.num_rows - 50, 0)).select(columns).to_pylist()
    if not asked:
        raise TandemError(f"no requests in the day before {as_of:%Y-%m-%d} to ask the model about; choose another --end")
    with steps.doing("serving"), server(repo, as_of) as address:
        url, times, answer = f"{address}/v1/models/{name}:predict", [], {}
        for instance in asked:
            begun = time.perf_counter()
            answer = post(url, {"instances": [instance]})
            times.append((time.perf_counter() - begun) * 1000)
    steps.say(f"served {len(asked)} predictions")
    return {"question": asked[-1], "answer": answer}, sorted(times)[len(times) // 2]
