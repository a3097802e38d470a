"""``tandem labels`` and ``tandem monitor``: what became of the answers, and whether data or model drift."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, load, moment, quiet, show

__all__ = ["labels"]

ModelOption = Annotated[
    str | None, typer.Option("--model", help="Which model (default: all of tandem.yaml's for labels, the first to monitor).")
]
SinceOption = Annotated[str | None, typer.Option("--since", help="First moment of the answers, by the server's now (tandem_as_of), UTC.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="Moment before which the answers lie, UTC.")]
AsOfOption = Annotated[str | None, typer.Option("--as-of", help="The moment it is (default: now): labels known later are not seen.")]


def _maybe(flag: str, text: str | None) -> datetime | None:
    return None if text is None else moment(flag, text)


def labels(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_of: AsOfOption = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", min=0, help="Hours that an answer may lie from its labelled request (default: monitor.label_tolerance_hours)."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Join what happened later to the answers of the request log.

    The model's spine function says which request got which label; an answer belongs to the row with the same entity keys and request
    fields that is nearest in time. Labelling again adds what is new and corrects what changed.
    """
    quiet()
    from pipelines.monitoring.labels import label_requests, model_of

    loaded, steps = load(repo, data), Steps()
    models = (
        [model_of(loaded, model)]
        if model is not None or not loaded.settings.models
        else [loaded.attribute(m) for m in loaded.settings.models]
    )
    reach = None if tolerance is None else timedelta(hours=tolerance)
    known = moment("--as-of", as_of, datetime.now(UTC))
    found = []
    for one in models:
        with steps.doing(f"labels of {one.name}"):
            done = label_requests(
                loaded, one, known, since=_maybe("--since", since), until=_maybe("--until", until), tolerance=reach, say=steps.say
            )
        found.append(done.to_dict())
    show({"models": found}, json_, lambda: _label_table(found))


def _label_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="labels", title_justify="left")
    table.add_column("model")
    counts = ("answers", "labelled", "added", "corrected", "waiting", "ambiguous", "unmatched")
    for name in counts:
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(one["model"], *(f"{one[c]:,}" for c in counts))
    return table
