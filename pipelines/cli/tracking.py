"""``tandem track``: deliver to the trackers what waits."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, screen, settings_of, show
from pipelines.cli.extras import missing
from transforms.errors import TandemError

__all__ = ["track"]


def track(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Send all runs again, e.g. to a new store.")] = False,
    json_: JsonOption = False,
) -> None:
    """Send the pending runs in DATA/tracking/outbox to the trackers (MLflow, Weights & Biases), and wait until done."""
    from pipelines.lake.runs import list_runs
    from pipelines.tracking.outbox import Outbox
    from pipelines.tracking.stores import shown, trackers, tracking_uri
    from pipelines.tracking.sync import deliver

    settings = settings_of(repo, data)
    folder, chosen = settings.data, trackers(settings)
    if settings.tracking.trackers and not chosen:
        raise missing("track", "tracking")
    outbox, uri = Outbox(folder), tracking_uri(settings, folder)
    if all_:
        for run in list_runs(folder):
            for name in chosen:
                outbox.put(name, run.id)
    waiting = len(outbox.notes())
    with screen.status("sending to the trackers"):
        failed = deliver(folder, settings.tracking, uri, settings.tracking.retry_seconds, lambda line: screen.print(line, highlight=False))
        if failed is None:  # another process does it
            outbox.wait(settings.tracking.retry_seconds + 30)
            failed = outbox.problems()
    left = len(outbox.notes())
    show({"sent": max(0, waiting - left), "left": left, "store": shown(uri), "trackers": chosen, "failed": failed}, json_)
    if left:
        raise TandemError(f"{left} of {waiting} updates are still pending: {'; '.join(failed.values())}")
    if not json_:
        screen.print(f"sent {waiting} updates to {', '.join(chosen) or 'no tracker'}; MLflow store: {shown(uri)}", highlight=False)
