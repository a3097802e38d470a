"""``tandem demo``: every command in a row, over real events, with a summary at the end."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

from pipelines import workflow
from pipelines.cli.batch import run_table
from pipelines.demo import streaming_demo as live
from pipelines.demo.client import past_requests, post
from pipelines.lake import layout
from pipelines.lake.run_records import BatchRecord
from pipelines.project.repository import Repo
from pipelines.reports.terminal import Steps, results, show
from pipelines.services.jars import fetch_in_background
from pipelines.training.training_report import render
from transforms.errors import TandemError

__all__ = ["run_demo"]


def run_demo(repo: Repo, start: datetime, end: datetime, as_json: bool, days: int = 0) -> None:
    """Events of [start, end) to a served model, then the ``days`` after as a stream (0: none); prints a summary (or JSON)."""
    steps = Steps()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: children and broker are ended on the way out
    problem = live.why_not(repo) if days else ""
    if problem:
        steps.say(f"skipping the streaming half: {problem}")
        days = 0
    if days:
        fetch_in_background()
        live.start_over(repo, steps)
    steps.say(f"real events of {start:%Y-%m-%d} to {end:%Y-%m-%d} (UTC); any part of the log works: --start, --end")
    workflow.make_events(repo, f"{start:%Y-%m-%d}", f"{end + timedelta(days=days):%Y-%m-%d}", steps)
    made = workflow.batch(repo, start, end, steps)
    said = made.as_(BatchRecord)
    workflow.apply(repo, made.id, steps, "tandem demo")
    workflow.materialize(repo, start, end, steps)
    with ExitStack() as started:
        ahead = started.enter_context(live.Ahead(repo, made.id, steps)) if days else None
        begin = start + timedelta(days=repo.settings.demo.warm_up_days)
        trained = workflow.train(repo, begin, end, steps)
        if trained.pushed is None:
            steps.say(f"not blessed, so not pushed; the previous version, if any, stays: {'; '.join(trained.pipeline.reasons)}")
        if not layout.model(repo.data, trained.model).is_dir():
            raise TandemError(
                f"model {trained.model!r} has no blessed version to serve; give it more data (--start, --end) or other thresholds"
            )
        answer, millis = ask(repo, trained.model, end, steps) if not days else (None, None)
        summary: dict[str, Any] = {
            "run": made.id,
            "events": said.events,
            "rejected": said.rejected,
            "rows": said.rows,
            "training_run": trained.run,
            "version": trained.version,
            "scores": trained.report.to_dict(),
        }
        if not as_json:
            _show_batch(said, trained)
        if ahead is not None:
            summary["live"] = live.run_live(repo, ahead, trained.model, end, days, steps, as_json)
        else:
            summary |= {"answer": answer, "milliseconds": millis}
    summary["seconds"] = round(time.monotonic() - steps.begun, 1)
    if as_json:
        show(summary, as_json)
        return
    out = results()
    out.print()
    if answer is not None:
        out.print("One answer of the server:")
        out.print_json(json.dumps(answer))
        out.print(f"asked over HTTP, half of the requests within {millis:.1f} ms.")
    out.print(f"The whole demo took {summary['seconds']} s.")
    last = end + timedelta(days=days)
    out.print(
        f"Next: tandem serve --as-of {last:%Y-%m-%d}   (then open http://127.0.0.1:8500/docs); tandem runs; feast ui (in {repo.path.name})"
    )


def _show_batch(said: BatchRecord, trained: Any) -> None:
    out = results()
    out.print()
    out.print(run_table(said))
    out.print()
    out.print(render(trained.report))
    out.print()


def ask(repo: Repo, name: str, as_of: datetime, steps: Steps) -> tuple[dict[str, Any], float]:
    """Ask the served model for the newest requests of the training set's last day; (one answer with its question, median ms)."""
    asked = past_requests(repo, name, as_of - timedelta(days=1), as_of)[-50:]
    with steps.doing("serving"), live.server(repo, as_of) as address:
        url, times, answer = f"{address}/v1/models/{name}:predict", [], {}
        for _, instance in asked:
            begun = time.perf_counter()
            answer = post(url, {"instances": [instance]})
            times.append((time.perf_counter() - begun) * 1000)
    steps.say(f"served {len(asked)} predictions")
    return {"question": asked[-1][1], "answer": answer}, sorted(times)[len(times) // 2]
