"""The graphs of a batch run made the applied ones, for tests that need no registry and no online store."""

from __future__ import annotations

from pipelines.batch.batch_job import graphs_of
from pipelines.lake.graphs import apply_graph
from pipelines.lake.runs import Run
from pipelines.project.repository import Repo

__all__ = ["apply_run"]


def apply_run(repo: Repo, run: Run) -> dict[str, str]:
    """Write ``CURRENT`` of each group; returns group -> fingerprint. Raises GraphError, with nothing changed."""
    fingerprints = graphs_of(repo, run)
    for name, fingerprint in fingerprints.items():
        apply_graph(repo.data, name, fingerprint)
    return fingerprints
