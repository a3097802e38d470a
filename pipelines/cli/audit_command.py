"""``tandem audit``: what the audit log says, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, settings_of, show
from pipelines.lake import layout
from pipelines.reports.terminal import on_one_line
from transforms.errors import DataError

__all__ = ["audit"]


def audit(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of entries to show, the latest ones.")] = 50,
    json_: JsonOption = False,
) -> None:
    """Verify the audit log and show its latest entries.

    Exit codes: 0 the log is intact (or empty); 1 an entry was changed, removed or inserted; the message names it.
    """
    from pipelines.lake.audit import AuditLog

    folder = layout.audit(settings_of(repo, data).data)
    found = AuditLog(folder).check()
    table = Table("n", "when", "who", "what", "outcome", "why", box=None)
    for e in found.entries[-limit:]:
        what = " ".join(filter(None, [e.action, e.subject, "(forced)" if e.forced else ""]))
        cells = (e.n, e.at[:19], f"{e.who}@{e.host}", what, e.outcome, e.why)
        table.add_row(*map(on_one_line, cells))
    state = "intact" if not found.problem else "not intact"
    table.caption = f"{len(found.entries)} entries, {state}" + (f"; {found.torn} incomplete (the writer was killed)" if found.torn else "")
    entries = [e.to_dict() for e in found.entries[-limit:]]
    show({"entries": entries, "problem": found.problem, "torn": found.torn}, json_, lambda: table)
    if found.problem:
        raise DataError(f"the audit log was tampered with or damaged: {found.problem}")
