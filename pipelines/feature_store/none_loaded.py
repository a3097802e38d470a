"""Why a range has no rows to load, by what the batch runs say of themselves."""

from __future__ import annotations

from datetime import datetime

from pipelines.lake.graphs import applied_graphs
from pipelines.lake.runs import list_runs, range_of
from pipelines.project.repository import Repo

__all__ = ["why_none"]


def why_none(repo: Repo, start: datetime, end: datetime) -> str:
    """Why no batch run has rows of a range, as far as their manifests say, and what helps."""
    complete = [(r, span) for r in list_runs(repo.data) if r.kind == "batch" and r.status == "complete" and (span := range_of(r))]
    within = [(r, (since, until)) for r, (since, until) in complete if since < end and start < until]
    if not within:
        return "run 'tandem batch' over the range, and 'tandem apply'"
    graphs = applied_graphs(repo.data)
    of = {name: [(r, span) for r, span in within if r.record.fingerprints.get(name) == graphs.get(name, "")] for name in repo.groups}
    if not any(of.values()):
        return f"the graphs of batch run {within[-1][0].id} are not applied: 'tandem apply' applies them"
    made = [
        (run, (since, until))
        for name, known in of.items()
        for n, (run, (since, until)) in enumerate(known, 1)
        if run.record.counts.get(f"rows/{name}") and not any(a <= since and until <= b for _, (a, b) in known[n:])  # a newer one decides
    ]
    if made:
        run, span = max(made, key=lambda m: (m[0].created, m[0].id))
        return f"batch run {run.id} made rows ({_span(span)}): give a range that has them, or 'tandem apply' if the folder was moved"
    for run, _ in reversed(within):
        if names := [name for name, known in of.items() if not known and run.record.counts.get(f"rows/{name}")]:
            return f"batch run {run.id} made rows of groups whose graphs are not applied ({', '.join(names)}): 'tandem apply' applies them"
    run, span = max((k for known in of.values() for k in known), key=lambda m: (m[0].created, m[0].id))
    return (
        f"batch run {run.id} ({_span(span)}) made no row: no event that it took has an entity of a group; 'tandem runs show {run.id}'"
        " says what it read and refused"
    )


def _span(span: tuple[datetime, datetime]) -> str:
    return " to ".join(f"{t:%Y-%m-%dT%H:%M}" for t in span)
