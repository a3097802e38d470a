"""``tandem runs``, ``tandem reproduce``, ``tandem lineage``: what was done, whether it can be done again, and where an answer came from."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    JsonOption,
    RepoOption,
    Steps,
    load,
    quiet,
    results,
    screen,
    settings_of,
    show,
    write,
)
from pipelines.lake.counted import counted
from pipelines.lake.data_files import write_text
from pipelines.lake.run_parts import Code, Engine, SuiteOutcome
from pipelines.lake.run_records import TrainRecord

if TYPE_CHECKING:
    from pipelines.lake.runs import Run

__all__ = ["app", "lineage", "reproduce"]

KindOption = Annotated[str | None, typer.Option(help="Only runs of this kind: batch, train, stream, ...")]
LimitOption = Annotated[int, typer.Option(min=0, help="Only this many of the latest runs; 0: all.")]
app = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)


@app.callback()
def runs(
    context: typer.Context,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    kind: KindOption = None,
    limit: LimitOption = 0,
    json_: JsonOption = False,
) -> None:
    """List runs with status, time range, rows and metric; see also 'show' and 'diff'."""
    if context.invoked_subcommand is None:
        _list(repo, data, kind, limit, json_)


@app.command("list")
def list_(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    kind: KindOption = None,
    limit: LimitOption = 0,
    json_: JsonOption = False,
) -> None:
    """The same as 'tandem runs'."""
    _list(repo, data, kind, limit, json_)


def _list(repo: Path, data: Path | None, kind: str | None, limit: int, as_json: bool) -> None:
    from pipelines.lake.runs import damaged, list_runs

    folder = settings_of(repo, data).data
    every = list_runs(folder)
    found = [r for r in every if kind in (None, r.kind)]
    if kind is not None and not found:
        screen.print(f"no runs of kind {kind}; there are {', '.join(sorted({r.kind for r in every})) or 'none'}", markup=False)
    found = found[-limit:] if limit else found
    columns = ("status", "verdict", "kind", "range", "rows", "metric", "parent", Column("run", no_wrap=True, overflow="fold"))
    table = Table(*columns, box=None)
    for r in found:
        table.add_row(r.status, r.head.judged or "", r.kind, _range(r), _rows(r), _metric(r), str(r.head.parent or ""), r.id)
    if as_json:
        show({"runs": [r.manifest for r in found]}, True)
    else:
        results().print(table)
    for line in damaged(folder):
        screen.print(line, style="yellow", markup=False, highlight=False)


def _range(run: Run) -> str:
    spans = " to ".join(_moment(str(t)) for t in run.head.range)
    return spans or (f"{run.kind} {run.head.name}" if run.head.name is not None else "")


def _moment(text: str) -> str:
    """A moment of a range: the day, with the minute where it is not its beginning."""
    day, minute = text[:10], text[11:16]
    return day if minute in ("", "00:00") else f"{day}T{minute}"


def _rows(run: Run) -> str:
    return f"{run.head.rows_made:,}" if run.head.rows_made else ""


def _metric(run: Run) -> str:
    return f"{run.head.score[0]} {run.head.score[1]:.4f}" if run.head.score else ""


@app.command("show")
def show_(
    run: Annotated[str, typer.Argument(help="Run id or a unique prefix of it; 'latest' is the newest run.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    json_: JsonOption = False,
) -> None:
    """Show one run; --json prints its manifest."""
    from pipelines.lake.runs import find

    found = find(settings_of(repo, data).data, run)
    if json_:
        show(found.manifest, True)
        return
    out = results()
    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False, title=f"run {found.id}", title_justify="left")
    for name, value in _facts(found):
        table.add_row(name, value)
    out.print(table)


@app.command("version")
def version_(
    run: Annotated[str | None, typer.Argument(help="Run id or a unique prefix of it (default: the newest complete run of --kind).")] = None,
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    kind: Annotated[str, typer.Option(help="Kind of the run, if no id is given.")] = "batch",
    output: Annotated[Path | None, typer.Option(help="Output file (default: print to stdout).")] = None,
    json_: JsonOption = False,
) -> None:
    """Print the data version of a run as JSON: hashes of its inputs and outputs (equal bytes give equal hashes).

    With --output it is written to the file, and printed only with --json.
    """
    from pipelines.lake.data_version import data_version, newest
    from pipelines.lake.runs import find

    folder = settings_of(repo, data).data
    made = data_version(find(folder, run) if run is not None else newest(folder, kind))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, json.dumps(made, indent=2) + "\n")
    show(made, json_ or output is None)


def _facts(run: Run) -> list[tuple[str, str]]:
    """What a person wants to know of a run, in that order."""
    said = run.record
    inputs = {n: f for n, f in said.inputs.items() if f}
    kinds: dict[str, list[int]] = {}
    for o in said.outputs:
        kinds.setdefault(o["name"].split("/")[0], []).append(o["bytes"])
    metrics = {n: v for n, v in said.metrics.items() if "=" not in n}
    sliced = len(said.metrics) - len(metrics)
    code = said.code
    rows: list[tuple[str, Any]] = [
        ("status", run.status + (f" ({said.stage})" if run.status == "killed" and said.stage != "running" else "")),
        ("verdict", (run.head.judged or "") + (f": {'; '.join(said.reasons or said.missed)}" if said.reasons or said.missed else "")),
        ("error", said.error),
        ("ended", said.ended),
        ("kind", run.kind),
        ("command", " ".join(said.command)),
        ("parent", said.parent),
        ("created", _when(said.created)),
        ("finished", _when(said.finished) + (f", after {said.seconds:,.1f} s" if said.seconds is not None else "")),
        ("range", " to ".join(said.range)),
        ("model", " ".join(str(x) for x in (said.model, said.version and f"version {said.version}") if x)),
        ("training set", said.training_set if isinstance(said, TrainRecord) else None),
        ("parameters", ", ".join(f"{n} {v}" for n, v in {**said.seeds, **said.params}.items())),
        ("inputs", "\n".join(f"{n}: {counted(f, 'file')}, {sum(x['size'] for x in f):,} bytes" for n, f in inputs.items())),
        ("counts", _pairs(said.counts)),
        ("metrics", _pairs(metrics) + (f" (and {sliced} of slices)" if sliced else "")),
        ("expectations", "\n".join(_suite(name, each) for name, each in said.expectations.items())),
        ("graphs", _pairs({n: str(f)[:12] for n, f in said.fingerprints.items()})),
        ("outputs", "\n".join(f"{n}: {counted(b, 'file')}, {sum(b):,} bytes" for n, b in kinds.items())),
        ("links", _pairs({n: v for n, v in said.links.items() if not isinstance(v, dict)})),
        ("trace", said.trace),
        ("code", f"{_commit(code)}; sha256 {code.get('sha256', '')[:12]}{_values(code)}" if code else ""),
        ("engine", f"{engine.get('version', 'no version')}, {_commit(engine)}" if (engine := code.get("engine")) else ""),
        ("lock", (said.lock or "")[:12]),
        ("versions", _pairs(said.versions)),
        ("folder", str(run.folder)),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _suite(name: str, kept: SuiteOutcome) -> str:
    """What came of a suite of Great Expectations: how many hold, and which do not."""
    failed = [f"{r['expectation']} {r.get('about', '')}".strip() for r in kept["results"] if not r["holds"]]
    held = f"{name}: {len(kept['results']) - len(failed)} of {len(kept['results'])} hold over {kept['rows']:,} rows of {kept['over']}"
    return "; not ".join([held, *failed])


def _commit(code: Code | Engine) -> str:
    return f"{code.get('commit', 'no commit')[:12]}{', with uncommitted changes' if code.get('dirty') else ''}"


def _values(code: Code) -> str:
    """The hash of what can change feature values: only that makes a batch run stale."""
    return f"; of what can change feature values {code['values'][:12]}" if "values" in code else ""


def _pairs(values: dict[str, Any]) -> str:
    def text(v: Any) -> str:
        return f"{v:.4f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v)

    return ", ".join(f"{n} {text(v)}" for n, v in values.items())


def _when(text: Any) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC" if isinstance(text, str) else ""


@app.command("diff")
def diff_(
    a: Annotated[str, typer.Argument(help="Run id or a unique prefix of it.")],
    b: Annotated[str, typer.Argument(help="Id of the run to compare with.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    json_: JsonOption = False,
) -> None:
    """Show the differences between two runs: causes first, then effects."""
    from pipelines.lake.runs import find
    from pipelines.lineage.diff import render, to_dict

    folder = settings_of(repo, data).data
    first, second = (find(folder, x).manifest for x in (a, b))
    if json_:
        show(to_dict(first, second), True)
        return
    write(f"A: {first['id']}\nB: {second['id']}")
    for line in render(first, second):
        write(line)


def reproduce(
    run: Annotated[str, typer.Argument(help="Id of a train or batch run, or a unique prefix of it; 'latest' is the newest run.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train/--no-train", help="For a training run: also train the model again (otherwise only rebuild the training set)."
        ),
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the reproduced files.")] = False,
    json_: JsonOption = False,
) -> None:
    """Reproduce a past run's training set and model (or a batch run's rows and graphs) in a separate folder, and compare.

    Nothing is pushed, promoted or applied. Each artifact is reported as identical (same bytes), equal within a stated tolerance, or
    different, with the cause: an input, the definitions, the code or a library changed.
    Exit codes: 0 everything is identical or equal; 1 something differs.
    """
    quiet()
    from pipelines.lineage.reproduce import render
    from pipelines.lineage.reproduce import reproduce as again

    loaded, steps = load(repo, data, everything=True), Steps()
    with steps.doing("reproducing"):
        result = again(loaded, run, model=train, keep=keep, say=steps.say, timed=steps.timed)
    if json_:
        show(result, True)
    else:
        for line in render(result):
            write(line)
    if result["verdict"] == "different":
        raise typer.Exit(1)


def lineage(
    request: Annotated[str, typer.Argument(help="Request id: the X-Request-Id header of the response or request.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    row: Annotated[int, typer.Option(min=0, help="Index of the instance in the request.")] = 0,
    page: Annotated[Path | None, typer.Option(help="Also write the lineage to this file, as an HTML page.")] = None,
    json_: JsonOption = False,
) -> None:
    """Trace a served prediction back to its model version, training run and set, feature rows, graphs and event files."""
    quiet()
    from pipelines.lineage.trace import trace
    from pipelines.lineage.trace_text import tree

    found = trace(load(repo, data, finish=False, everything=True), request, row)
    if page is not None:
        from pipelines.lineage.trace_html import render_page

        write_text(page, render_page(found))
    if json_:
        show(found.to_dict(), True)
    else:
        results().print(tree(found))
