"""``tandem erase`` and ``tandem vacuum``: a subject is forgotten, and what nobody needs any more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, load, quiet, screen, show
from pipelines.lake.counted import counted
from pipelines.project.config import parse_duration
from transforms.errors import ConfigError

__all__ = ["erase", "vacuum"]

STILL_THERE = 3
KINDS = ("runs", "training", "requests", "verify", "monitor", "models", "stream")


def erase(
    entity: Annotated[list[str], typer.Option("--entity", help="Entity to erase, as KEY=VALUE (repeat for entities with several keys).")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the audit log; do not name the person.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased and what would remain; change nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Erase an entity: from event files, rows, logs, training sets, request log, labels, dead letters and online store.

    Exit codes: 0 nothing of it remains in the data folder (or --dry-run); 3 the named files still contain it (models, graphs, trackers), or
    may contain it, as they cannot be read.
    """
    quiet()
    from pipelines.forgetting.erase import erase as forget
    from pipelines.forgetting.subject import Subject
    from pipelines.project import permissions

    subject, loaded, steps = Subject.parse(entity), load(repo, data, finish=not dry_run), Steps()
    with steps.doing("erasing"):
        if dry_run:
            report = forget(loaded, subject, True, steps.say)
        else:
            with permissions.guarded(loaded, "erase", subject.digest, reason) as act:
                report = forget(loaded, subject, False, steps.say)
                act.details["found"] = dict(report.found)
    table = Table("where", "rows or files", title="what was found", title_justify="left", box=None)
    for place, count in sorted(report.found.items()):
        table.add_row(place, f"{count:,}")
    show(report.to_dict(), json_, lambda: table)
    tail = "; dry run, nothing was changed" if dry_run else ""
    steps.say(
        f"{counted(report.rewritten, 'file')} rewritten, {len(report.deleted):,} deleted, {counted(report.marked, 'manifest')} marked{tail}"
    )
    for note in report.notes:
        steps.say(f"note: {note}")
    for name in report.remains:
        screen.print(
            f"{'would still contain it' if dry_run else 'still contains it'}: {name}", markup=False, highlight=False, soft_wrap=True
        )
    if report.remains:
        screen.print(
            "event files: if a field of another name belongs to the same subject, erase that too (--entity FIELD=VALUE);"
            " everything else: rebuild it without the subject (tandem batch, apply, train), then delete the old one",
            soft_wrap=True,
        )
    if (report.remains or report.unread) and not dry_run:
        raise typer.Exit(STILL_THERE)


def vacuum(
    older_than: Annotated[str, typer.Option("--older-than", help="Remove only what is older than this: 30d, 12h.")],
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    keep_last: Annotated[int, typer.Option("--keep-last", min=0, help="Number of the newest of each kind to keep.")] = 10,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only this kind (repeatable): " + ", ".join(KINDS) + ".")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the audit log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed and its size; remove nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Remove old runs, training sets, row and request logs, reports and models that nothing refers to.

    Never removes what a model in use, the start of a stream, a training set in the registry or an applied graph refers to.
    """
    quiet()
    from pipelines.forgetting.vacuum import vacuum as take
    from pipelines.project import permissions

    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise ConfigError(f"--older-than {error}") from None
    kinds = tuple(kind or ())
    if unknown := [k for k in kinds if k not in KINDS]:
        raise ConfigError(f"--kind {unknown[0]!r} is unknown; use {', '.join(KINDS)}")
    loaded, steps = load(repo, data, finish=False), Steps()
    if dry_run:
        gone = take(loaded, datetime.now(UTC), age, keep_last, kinds, True)
    else:
        with permissions.guarded(loaded, "vacuum", "", reason, older_than=older_than, keep=keep_last) as act:
            gone = take(loaded, datetime.now(UTC), age, keep_last, kinds)
            act.details["taken"] = [each["name"] for each in gone]
    total = sum(each["bytes"] for each in gone)
    table = Table("kind", "what", "made", "bytes", box=None)
    for each in gone:
        table.add_row(each["kind"], each["name"], each["made"][:16], f"{each['bytes']:,}")
    show({"taken": gone, "bytes": total, "dry_run": dry_run}, json_, lambda: table)
    steps.say(f"{counted(gone, 'item')}, {total:,} bytes {'would be removed (dry run)' if dry_run else 'removed'}")
