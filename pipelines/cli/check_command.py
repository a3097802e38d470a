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
        bool, typer.Option("--rows/--no-rows", help="Also run preprocessing functions on 100 rows (takes some seconds).")
    ] = True,
    group: GroupOption = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Run this Great Expectations suite (JSON or Python) instead, on --source or --run.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="With --suite: check the events of this source.")] = None,
    run: Annotated[
        str | None, typer.Option(help="With --suite: check the rows of this batch run (an id, or latest); --group selects one of several.")
    ] = None,
    only: Annotated[list[Part] | None, typer.Option("--only", help="Check only this part, besides the definitions (repeatable).")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ignore cached results: run all preprocessing functions again.")] = False,
    json_: JsonOption = False,
) -> None:
    """Validate definitions, contracts, preprocessing functions, feature services and models, on a few events and 100 rows.

    Nothing is applied, and nothing is written into the repository or its data, except the results of a --suite (into the checked run, or
    a run of kind check). Passed checks are cached in ~/.cache/tandem/checks (TANDEM_CHECK_CACHE names another folder; empty: no cache),
    keyed by a hash of everything the result depends on (code, columns, rows, packages).
    Exit codes: 0 no problems; 1 problems found, one line each.
    """
    quiet()
    if suite is not None:
        _check_suite(repo, data, suite, source, run, group or [], json_)
        return
    if source is not None or run is not None:
        raise typer.BadParameter("--source and --run select what a --suite checks; add --suite FILE")
    from pipelines.lake.graphs import applying

    loaded, steps = load(repo, data, finish=False, everything=True), Steps()
    if applying(loaded.data) is not None:
        steps.say("an apply was interrupted; 'tandem apply', or the next command that uses features, completes it")
    steps.say(f"definitions: {counted(loaded.sources, 'source')}, {counted(loaded.groups, 'group')}")
    from pipelines.training.kept_checks import KeptChecks, cache_folder
    from pipelines.training.project_check import check_project

    with steps.doing("checking"):
        kept = KeptChecks(loaded.path, loaded.settings.definitions, cache_folder(), no_cache)
        parts = only or [p for p in Part if p not in (Part.stores, Part.topics)]
        found = check_project(loaded.only(group or ()), steps.say, _wrong, rows, [str(p) for p in parts], kept)
    show({"problems": found}, json_)
    if found:
        steps.say(f"{counted(found, 'problem')}, each on a line above that begins with error:")
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
            raise ConfigError(f"--suite checks one source; give --source with one of {', '.join(names)}, or --run")
        what, table = f"source {names[0]}", events_of(loaded, names[0])
    else:
        found = find(loaded.data, run) if run != "latest" else newest(loaded.data, "batch")
        names = group or list(found.manifest.get("rows") or {})
        if len(names) != 1:
            raise ConfigError(f"--suite checks one group; give --group with one of {', '.join(names)}")
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
