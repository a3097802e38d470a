"""``tandem labels`` and ``tandem monitor``: what became of the answers, and whether data or model drift."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, load, moment, quiet, show, write

if TYPE_CHECKING:
    from pipelines.monitoring.monitor_report import LabelCounts, MonitorReport

__all__ = ["labels", "monitor"]

FAILED = 1
NO_MODEL = (
    "tandem.yaml lists no models, so there are no predictions to monitor; 'tandem verify' compares served features, 'tandem watch' watches"
    " jobs"
)

ModelsOption = Annotated[str | None, typer.Option("--model", help="Model name (default: all models of tandem.yaml).")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name (default: the first in tandem.yaml).")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="Start of the time range of predictions (inclusive), by the server's clock (tandem_as_of), UTC."),
]
UntilOption = Annotated[str | None, typer.Option("--until", help="End of the time range of predictions (exclusive), UTC.")]
AsOfOption = Annotated[str | None, typer.Option("--as-of", help="Evaluate as of this time (default: now): labels known later are ignored.")]


def _maybe(flag: str, text: str | None) -> datetime | None:
    return None if text is None else moment(flag, text)


def labels(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_of: AsOfOption = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="Maximum hours between a prediction and its labelled request (default: monitor.label_tolerance_hours).",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Join labels to the predictions in the request log.

    The model's spine function returns labelled requests; a prediction is matched to the one with the same entity keys and request fields
    that is nearest in time. Running it again adds new labels and corrects changed ones.
    """
    quiet()
    from pipelines.monitoring.labels import label_requests
    from pipelines.training.user_code import model_of

    loaded, steps = load(repo, data, everything=True), Steps()
    if model is None and not loaded.settings.models:
        show({"models": []}, json_)
        steps.say(NO_MODEL)
        return
    models = [model_of(loaded, model)] if model is not None else [loaded.attribute(m) for m in loaded.settings.models]
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


def _label_table(found: list[LabelCounts]) -> Table:
    table = Table(title="labels", title_justify="left")
    table.add_column("model")
    for name in ("answers", "labelled", "added", "corrected", "waiting", "ambiguous", "unmatched"):
        table.add_column(name, justify="right")
    for n in found:
        counts = (n["answers"], n["labelled"], n["added"], n["corrected"], n["waiting"], n["ambiguous"], n["unmatched"])
        table.add_row(n["model"], *(f"{count:,}" for count in counts))
    return table


def monitor(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    last: Annotated[
        str | None,
        typer.Option("--last", help="Length of the window, which ends with the last day that has predictions: 1d (default), 7d, 12h."),
    ] = None,
    as_of: AsOfOption = None,
    label: Annotated[bool, typer.Option("--labels/--no-labels", help="Run 'tandem labels' first.")] = True,
    recompute: Annotated[bool, typer.Option("--recompute/--no-recompute", help="Recompute the served values from the event log.")] = True,
    output: Annotated[
        Path | None, typer.Option("--output", help="Output folder of report.html and report.json (default: data/monitor/<model>-<time>).")
    ] = None,
    evidently: Annotated[bool, typer.Option("--evidently", help="Also write Evidently's report (evidently.html and .json).")] = False,
    json_: JsonOption = False,
) -> None:
    """Check a window of the request log for skew, drift, model decay and wrong served values.

    Checks skew against the training set and drift against the previous window (TFDV), units, nulls, unknown values, feature age against
    TTL, predictions, calibration and AUC (once labels are in), and served values against a recomputation. Thresholds are in the monitor
    section of tandem.yaml.

    Exit codes: 0 no check fails (there may be warnings, or nothing to check); 1 a check fails; 2 usage error.
    """
    quiet()
    steps = Steps()
    loaded = load(repo, data, everything=True)
    if model is None and not loaded.settings.models:
        show({"verdict": "ok", "headline": NO_MODEL, "checks": []}, json_)
        steps.say(NO_MODEL)
        return
    steps.say("loading libraries")
    from pipelines.monitoring.log_windows import duration
    from pipelines.monitoring.monitor_job import MonitorOptions, run_monitor

    options = MonitorOptions(
        model=model,
        since=_maybe("--since", since),
        until=_maybe("--until", until),
        last=None if last is None else duration(last),
        label=label,
        recompute=recompute,
        folder=output.resolve() if output is not None else None,
        evidently=evidently,
    )
    with steps.doing("monitoring"):
        report = run_monitor(loaded, options, moment("--as-of", as_of, datetime.now(UTC)), steps.say)
    show({**report.to_dict(), "page": str(report.page)}, json_, lambda: _check_table(report))
    if not json_:
        write(f"{report.verdict.upper()}: {report.headline}\n{report.page}")
    if report.verdict == "fail":
        raise typer.Exit(FAILED)


def _check_table(report: MonitorReport) -> Table:
    """What fails or is to be looked at; the rest as numbers."""
    checks = report.checks
    version = "" if report.version is None else f" version {report.version}"
    window = ", " + " to ".join(t[:16].replace("T", " ") for t in report.window) if report.window else ""
    table = Table(title=f"{report.model}{version}: {report.rows:,} answers{window}", title_justify="left")
    for name, justify in (("", "left"), ("check", "left"), ("of", "left"), ("value", "right"), ("allowed", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    shown = [c for s in ("fail", "warn", "skipped") for c in checks if c.status == s]
    for c in shown[:30]:
        numbers = ("-" if n is None else f"{n:.4g}" for n in (c.value, c.threshold))
        table.add_row(c.status, c.name, c.feature, *numbers)
    passed = sum(c.status == "ok" for c in checks)
    table.add_row("ok", f"{passed} checks" + (f" ({len(shown) - 30} more above)" if len(shown) > 30 else ""), "", "", "")
    return table
