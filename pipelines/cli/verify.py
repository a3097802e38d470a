"""``tandem verify``: the proof that stream and batch gave the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, load, quiet, results, show
from pipelines.lake.layout import REPORT_JSON

if TYPE_CHECKING:
    from pipelines.project.repository import Repo

__all__ = ["verify"]

UNEXPLAINED = 1


def verify(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    name: Annotated[str, typer.Option("--name", help="Which stream.")] = "main",
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with this batch run's rows, or the 'latest' one's (default: a new run over exactly what the stream read)."
        ),
    ] = None,
    online: Annotated[bool, typer.Option("--online/--no-online", help="Look at what the online store holds for each key.")] = True,
    served: Annotated[bool, typer.Option("--served/--no-served", help="Look at what the server answered (its request log).")] = True,
    stores: Annotated[
        bool, typer.Option("--stores", help="Only compare the offline rows with the online store, key by key; this needs no stream.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of report.html and report.json (default: data/verify/<name>-<time>).")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the event log and the rows that were made for the comparison.")] = False,
    json_: JsonOption = False,
) -> None:
    """Prove that stream and batch gave the same numbers: rows bit by bit, the online store, the server's answers.

    Exit codes: 0 every difference has a proven cause, or there is none; 1 something is unexplained, or the comparison could not be made
    (one line says why); 2 wrong usage.
    """
    quiet()
    from pipelines.lake.provenance import hashed
    from pipelines.project.recording import recorded
    from pipelines.verify.verification import VerifyOptions, check_comparable, run_verify
    from pipelines.verify.verify_page import write_report
    from pipelines.verify.verify_table import render

    loaded, steps = load(repo, data, everything=True), Steps()
    if stores:
        _stores(loaded, json_, steps)
        return
    folder = output.resolve() if output is not None else None
    options = VerifyOptions(name=name, against=against, online=online, served=served, keep=keep, folder=folder)
    check_comparable(loaded, options)
    with recorded(loaded, "verify", name=name) as run, steps.doing("verifying"):
        report = run_verify(loaded, options, steps.say)
        page = write_report(report)
        made = hashed(loaded.data, {"report": page.with_name(REPORT_JSON), "page": page})
        run.add(counts={"unexplained": report.unexplained}, outputs=made, verdict="fail" if report.unexplained else "ok")
    if json_:
        show({**report.to_dict(), "page": str(page)}, True)
    else:
        results().print(render(report))
    if report.unexplained:
        raise typer.Exit(UNEXPLAINED)


def _stores(repo: Repo, as_json: bool, steps: Steps) -> None:
    from pipelines.feature_store.store import open_store
    from pipelines.verify.offline_online import compare_stores
    from pipelines.verify.verify_table import stores_line

    found = {name: both.to_dict() for name, both in compare_stores(repo, open_store(repo), steps.say).items()}
    if as_json:
        show(found, True)
    else:
        lines = [line for both in found.values() for line in (*both["lines"], both["notice"]) if line]
        results().print(stores_line(found), *lines, sep="\n", markup=False)
    if any(both["unexplained"] for both in found.values()):
        raise typer.Exit(UNEXPLAINED)
