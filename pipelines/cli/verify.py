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
    name: Annotated[str, typer.Option("--name", help="Name of the stream.")] = "main",
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with the rows of this batch run (an id, or latest; default: a new run over exactly the events the stream read)."
        ),
    ] = None,
    online: Annotated[bool, typer.Option("--online/--no-online", help="Compare the online store, key by key.")] = True,
    served: Annotated[bool, typer.Option("--served/--no-served", help="Compare the server's responses (its request log).")] = True,
    stores: Annotated[
        bool, typer.Option("--stores", help="Only compare the offline rows with the online store, key by key; needs no stream.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Output folder of report.html and report.json (default: data/verify/<name>-<time>).")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the event log and the rows computed for the comparison.")] = False,
    json_: JsonOption = False,
) -> None:
    """Prove that stream and batch computed the same values: rows bit by bit, the online store, the server's responses.

    Exit codes: 0 no differences, or each has a proven cause; 1 unexplained differences, or the comparison failed; 2 usage error.
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
