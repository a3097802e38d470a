"""``tandem events``, ``batch``, ``apply`` and ``materialize``: history into the feature store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from pipelines import workflow
from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    EndOption,
    GroupOption,
    JsonOption,
    RepoOption,
    StartOption,
    Steps,
    load,
    moment,
    quiet,
    show,
)
from pipelines.engines.batch_engines import EngineFlags
from pipelines.lake.run_records import BatchRecord, with_fields
from transforms.instants import as_option


def events(
    repo: RepoOption = DEFAULT_REPO, data: DataOption = None, start: StartOption = None, end: EndOption = None, json_: JsonOption = False
) -> None:
    """Generate event logs with the repository's own function (demo.events in tandem.yaml)."""
    loaded, steps = load(repo, data, finish=False), Steps()
    show(workflow.make_events(loaded, start, end, steps), json_, None)


def batch(
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    start: StartOption = None,
    end: EndOption = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from-run", help="Continue from where this batch run (an id, or latest) ended, with its graphs; reads only newer events."
        ),
    ] = None,
    runner: Annotated[
        str, typer.Option(help="Runner: direct (this process), flink, spark, or the name of another Beam runner.")
    ] = "direct",
    master: Annotated[
        str | None,
        typer.Option(help="Cluster address: host:port of Flink's REST API, or spark://host:port (default: embedded, on this machine)."),
    ] = None,
    parallelism: Annotated[
        int | None, typer.Option(min=1, help="Number of parallel tasks (default: this machine's cores, or the cluster's slots).")
    ] = None,
    worker_command: Annotated[str, typer.Option(help="Command that starts a worker on each machine of the cluster.")] = "tandem-worker",
    wait_minutes: Annotated[
        float, typer.Option("--wait-minutes", min=0, help="Minutes that each job may wait for executors of Spark's cluster.")
    ] = 60.0,
    pinned: Annotated[bool, typer.Option("--pinned", help="Reuse the applied transform graphs instead of analyzing again.")] = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="Run again even if a complete run of the same inputs exists.")] = False,
    group: GroupOption = None,
    json_: JsonOption = False,
) -> None:
    """Compute the feature rows of a time range from the event logs. Arguments after -- are passed to Beam's PipelineOptions."""
    quiet()
    loaded, steps = load(repo, data, finish=False).only(group or ()), Steps()
    demo = loaded.settings.demo
    first = None if from_run is not None and start is None else moment("--start", start, demo.start)
    last, flags = moment("--end", end, demo.end), EngineFlags(master, parallelism, worker_command, wait_minutes)
    run = workflow.batch(loaded, first, last, steps, runner, context.args, pinned, rerun, from_run, flags)
    show(run.manifest, json_, lambda: run_table(run.as_(BatchRecord)))


def run_table(said: BatchRecord) -> Table:
    """What a batch run made."""
    table = Table(title=f"run {said.id}: {said.status}", title_justify="left")
    for name, justify in (("feature group", "left"), ("rows", "right"), ("graph", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, rows in said.rows.items():
        table.add_row(name, f"{rows:,}", said.fingerprints.get(name, "")[:12])
    reasons = ", ".join(f"{n:,} {with_fields(reason, said.rejected_fields)}" for reason, n in said.rejected.items()) or "none"
    passed = _of_each({source: p["count"] for source, p in said.passed_over.items()})
    table.caption = f"{sum(said.events.values()):,} events read; rejected: {reasons}" + (f"; files skipped: {passed}" if passed else "")
    if said.continues:
        held = sum(len(files) for files in said.past.values())
        table.caption += f"; continued from {said.continues['run']}, whose tiles cover {held:,} more files"
    for words, counts in (
        ("filtered by where", said.filtered),
        ("records with no element to explode", said.empty),
        ("in the date= folder of another day", said.misplaced),
        ("NaN or infinite", said.nonfinite),
    ):
        table.caption += f"; {words}: {_of_each(counts)}" if counts else ""
    return table


def _of_each(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} of {what}" for what, n in counts.items())


def apply(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    run: Annotated[
        str | None, typer.Option(help="Batch run whose graphs to apply (default: for each group, the newest run that has it).")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Write the online store's rows from now on, though another data folder does.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the audit log.")] = "",
) -> None:
    """Apply the transform graphs of a batch run, and run feast apply."""
    quiet()
    workflow.apply(load(repo, data, finish=False), run, Steps(), reason, take_over)


def materialize(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, start: StartOption = None, end: EndOption = None) -> None:
    """Load the newest feature rows of a time range into the online store."""
    quiet()
    loaded = load(repo, data)
    demo, steps = loaded.settings.demo, Steps()
    until = moment("--end", end, demo.end)
    workflow.materialize(loaded, moment("--start", start, demo.start), until, steps)
    if said := of_the_past(until, datetime.now(UTC)):
        steps.say(said)


_PAST = timedelta(days=1)


def of_the_past(end: datetime, now: datetime) -> str:
    """How rows up to ``end`` are served as they were then, one line; "" where they end within the last day. A server as of a time before
    ``end`` would take the newest of them for the future, one as of now all of them for old."""
    return "" if now - end <= _PAST else f"these rows are of the past: to serve them as of then, tandem serve --as-of {as_option(end)}"
