"""``tandem check``: is the repository right, in seconds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, GroupOption, JsonOption, RepoOption, Steps, load, quiet, screen, show
from pipelines.lake.counted import counted
from transforms.errors import ConfigError

__all__ = ["check"]


class Part(StrEnum):
    """What can be checked alone; models: and feature services. Only where they are named: stores, whether they answer; topics, the newest
    records."""

    contracts = "contracts"
    preprocessing = "preprocessing"
    models = "models"
    stores = "stores"
    topics = "topics"


def check(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    rows: Annotated[
        bool, typer.Option("--rows/--no-rows", help="Run preprocessing functions on a hundred rows, too (some seconds).")
    ] = True,
    group: GroupOption = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Instead: this suite of Great Expectations (JSON or Python), over --source or --run.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="With --suite: over the events of this source.")] = None,
    run: Annotated[
        str | None, typer.Option(help="With --suite: over the rows of this batch run (or 'latest'), of --group if it has several.")
    ] = None,
    only: Annotated[list[Part] | None, typer.Option("--only", help="This part alone, beside the definitions; may be given again.")] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Take no answer of before: trace and run all preprocessing functions again.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check definitions, contracts, preprocessing functions, feature services and models, on a few events and a hundred rows.

    Nothing is applied or recorded, and nothing written into the repository or its data, but the results of a --suite: in the run whose rows
    it looked at, or in one of kind check. What was right is kept in ~/.cache/tandem/checks (TANDEM_CHECK_CACHE: elsewhere; empty: not at
    all) by a hash of all that it follows from (code, columns, rows, packages), and not asked again while that is the same.
    Exit codes: 0 nothing is wrong; 1 something is, one line each.
    """
    quiet()
    if suite is not None:
        _check_suite(repo, data, suite, source, run, group or [], json_)
        return
    if source is not None or run is not None:
        raise typer.BadParameter("--source and --run say what a --suite looks at; give that, too")
    from pipelines.lake.graphs import applying

    loaded, steps = load(repo, data, finish=False, everything=True), Steps()
    if applying(loaded.data) is not None:
        steps.say("an apply was ended before it was done; the next command that works with features completes it, as does 'tandem apply'")
    steps.say(f"definitions: {counted(loaded.sources, 'source')}, {counted(loaded.groups, 'group')}")
    from pipelines.training.kept_checks import KeptChecks, cache_folder
    from pipelines.training.project_check import check_project

    with steps.doing("checking"):
        kept = KeptChecks(loaded.path, loaded.settings.definitions, cache_folder(), anew)
        parts = only or [p for p in Part if p not in (Part.stores, Part.topics)]
        found = check_project(loaded.only(group or ()), steps.say, _wrong, rows, [str(p) for p in parts], kept)
    show({"problems": found}, json_)
    if found:
        steps.say(f"{counted(found, 'mistake')}, each in a line above that begins with error")
        raise typer.Exit(1)


def _wrong(line: str) -> None:
    screen.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)


def _check_suite(repo: Path, data: Path | None, file: Path, source: str | None, run: str | None, group: list[str], json_: bool) -> None:
    from pipelines.lake.data_version import newest
    from pipelines.lake.runs import find
    from pipelines.monitoring.suites import MOST_ROWS, check_suite, events_of, load_suite, rows_of
    from pipelines.project.recording import recorded

    loaded, steps = load(repo, data, finish=False), Steps()
    suite = load_suite(file)
    if run is None:
        names = [source] if source is not None else sorted(loaded.sources)
        if len(names) != 1:
            raise ConfigError(f"--suite looks at one source; name one of {', '.join(names)} by --source, or a run by --run")
        what, table = f"source {names[0]}", events_of(loaded, names[0])
    else:
        found = find(loaded.data, run) if run != "latest" else newest(loaded.data, "batch")
        names = group or list(found.manifest.get("rows") or {})
        if len(names) != 1:
            raise ConfigError(f"--suite looks at one group; name one of {', '.join(names)} by --group")
        what, table = f"{names[0]} of {found.id}", rows_of(loaded.data, found.id, names[0])
    steps.say(f"{what}: {table.num_rows:,} rows" + (", the first" if table.num_rows == MOST_ROWS else ""))
    with steps.doing("checking"):
        results = check_suite(suite, table)
    failed = [one for one in results if not one.holds]
    kept = {"over": what, "rows": table.num_rows, "failed": len(failed), "results": [one.to_dict() for one in results]}
    if run is not None:
        found.save(expectations={**found.manifest.get("expectations", {}), f"{suite.name}/{names[0]}": kept})
    else:
        verdict = "fail" if failed else "ok"
        with recorded(loaded, "check", verdict=verdict, counts={f"rows/{names[0]}": table.num_rows}, expectations={suite.name: kept}):
            pass
    for one in failed:
        _wrong(f"suite {suite.name}: {one}")
    steps.say(f"suite {suite.name}: {len(results) - len(failed)} of {len(results)} expectations hold")
    show({"suite": suite.name, **kept}, json_)
    if failed:
        raise typer.Exit(1)
