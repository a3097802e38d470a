"""``tandem events``, ``batch``, ``apply`` and ``materialize``: history into the feature store."""

from __future__ import annotations

from typing import Annotated, Any

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
from pipelines.lake.run_records import with_fields


def events(
    repo: RepoOption = DEFAULT_REPO, data: DataOption = None, start: StartOption = None, end: EndOption = None, json_: JsonOption = False
) -> None:
    """Write the event logs by the repository's own function (demo.events of tandem.yaml)."""
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
        typer.Option("--from-run", help="Go on where this batch run ended (its id, or latest), with its graphs: reads what came since."),
    ] = None,
    runner: Annotated[str, typer.Option(help="Where it runs: direct (here), flink, spark, or Beam's name of a runner.")] = "direct",
    master: Annotated[
        str | None, typer.Option(help="The cluster: Flink's REST interface host:port, Spark's spark://host:port (default: embedded, here).")
    ] = None,
    parallelism: Annotated[int | None, typer.Option(min=1, help="Tasks at once (default: cores here, slots of a cluster).")] = None,
    worker_command: Annotated[str, typer.Option(help="How a machine of the cluster starts a worker.")] = "tandem-worker",
    pinned: Annotated[bool, typer.Option("--pinned", help="Reuse the applied graphs instead of analyzing anew.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Run though a run of the same inputs is complete.")] = False,
    group: GroupOption = None,
    json_: JsonOption = False,
) -> None:
    """Make feature rows of a range of history. What stands after -- goes to Beam's PipelineOptions."""
    quiet()
    loaded, steps = load(repo, data, finish=False).only(group or ()), Steps()
    demo = loaded.settings.demo
    first = None if from_run is not None and start is None else moment("--start", start, demo.start)
    last, flags = moment("--end", end, demo.end), EngineFlags(master, parallelism, worker_command)
    manifest = workflow.batch(loaded, first, last, steps, runner, context.args, pinned, anew, from_run, flags)
    show(manifest, json_, lambda: run_table(manifest))


def run_table(manifest: dict[str, Any]) -> Table:
    """What a batch run made."""
    table = Table(title=f"run {manifest['id']}: {manifest['status']}", title_justify="left")
    for name, justify in (("feature group", "left"), ("rows", "right"), ("graph", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, rows in manifest.get("rows", {}).items():
        table.add_row(name, f"{rows:,}", manifest.get("fingerprints", {}).get(name, "")[:12])
    read, rejected = sum(manifest.get("events", {}).values()), manifest.get("rejected", {})
    fields = manifest.get("rejected_fields", {})
    reasons = ", ".join(f"{n:,} {with_fields(reason, fields)}" for reason, n in rejected.items()) or "none"
    passed = ", ".join(f"{p['count']:,} of {source}" for source, p in manifest.get("passed_over", {}).items())
    table.caption = f"{read:,} events read; rejected: {reasons}" + (f"; files passed over: {passed}" if passed else "")
    if continues := manifest.get("continues"):
        held = sum(len(files) for files in manifest.get("past", {}).values())
        table.caption += f"; went on with {continues['run']}, whose tiles hold {held:,} files more"
    if filtered := ", ".join(f"{n:,} of {source}" for source, n in manifest.get("filtered", {}).items()):
        table.caption += f"; filtered by where: {filtered}"
    if empty := ", ".join(f"{n:,} of {source}" for source, n in manifest.get("empty", {}).items()):
        table.caption += f"; records with no element to explode: {empty}"
    if misplaced := ", ".join(f"{n:,} of {source}" for source, n in manifest.get("misplaced", {}).items()):
        table.caption += f"; in a folder of another day: {misplaced}"
    if odd := ", ".join(f"{n:,} of {feature}" for feature, n in manifest.get("nonfinite", {}).items()):
        table.caption += f"; NaN or infinite: {odd}"
    return table


def apply(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    run: Annotated[
        str | None, typer.Option(help="The batch run whose graphs to apply (default: of each group the newest that has it).")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")] = "",
) -> None:
    """Make a run's graphs the applied ones, and run feast apply."""
    quiet()
    workflow.apply(load(repo, data, finish=False), run, Steps(), reason)


def materialize(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, start: StartOption = None, end: EndOption = None) -> None:
    """Load the newest rows of a range into the online store."""
    quiet()
    loaded = load(repo, data)
    demo = loaded.settings.demo
    workflow.materialize(loaded, moment("--start", start, demo.start), moment("--end", end, demo.end), Steps())
