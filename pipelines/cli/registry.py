"""``tandem models``, ``evaluate``, ``promote``, ``rollback`` and ``compare``: which version serves, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import workflow
from pipelines.cli.console import (
    DEFAULT_REPO,
    DataOption,
    JsonOption,
    OtherEndOption,
    OtherStartOption,
    RepoOption,
    Steps,
    load,
    moment,
    quiet,
    results,
    screen,
    settings_of,
    show,
)
from pipelines.cli.registry_tables import checks_table, compare_tables, history_table, models_table, scores_table
from pipelines.lake.counted import counted
from pipelines.project.recording import recorded
from pipelines.tracking.stores import error_text, tracking_uri
from transforms.errors import ConfigError, TandemError

if TYPE_CHECKING:
    from pipelines.project import permissions
    from pipelines.project.repository import Repo

__all__ = ["compare", "evaluate", "models", "promote", "rollback"]

REFUSED = 3

ModelOption = Annotated[str | None, typer.Option("--model", help="Model name (default: the first in tandem.yaml).")]
ForceOption = Annotated[bool, typer.Option("--force", help="Proceed even if a check fails; requires --reason.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Reason, recorded in the alias history and in MLflow.")]


def models(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: Annotated[str | None, typer.Option("--model", help="Only this model.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Show the history of the aliases.")] = False,
    sync: Annotated[bool, typer.Option("--sync", help="Update MLflow's registry first; fails if MLflow does not respond.")] = False,
    json_: JsonOption = False,
) -> None:
    """List the versions of each model: aliases, scores, fingerprints, and whether they can be served."""
    quiet()
    from pipelines.registry.listing import list_models

    settings = settings_of(repo, data)
    if sync:
        _sync(settings, settings.data)
    found = list_models(settings.data, model)
    if model is not None and not found:
        raise ConfigError(f"--model {model}: no version has been pushed to {settings.data / 'models'}")
    if json_:
        show({"models": found}, True)
        return
    for one in found:
        results().print(models_table(one))
        if history:
            results().print(history_table(one))
    if not found:
        screen.print("no model has been pushed; run 'tandem train'")
    elif "mlflow" in settings.tracking.trackers:
        from pipelines.tracking.model_registry import news

        if behind := news(settings.data, tracking_uri(settings, settings.data)):
            screen.print(f"MLflow is behind for {', '.join(behind)}: the next run updates it, or 'tandem models --sync'")


def evaluate(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    version: Annotated[
        list[int] | None, typer.Option("--version", help="Version to score (repeatable; default: champion and challenger).")
    ] = None,
    start: OtherStartOption = None,
    end: OtherEndOption = None,
    tfma: Annotated[bool, typer.Option("--tfma/--no-tfma", help="Also store TFMA's evaluation (about ten seconds more).")] = True,
    slices: Annotated[bool, typer.Option("--slices", help="Show every slice.")] = False,
    json_: JsonOption = False,
) -> None:
    """Score model versions on the same labelled rows: of a time range, or rows held out from all their trainings."""
    quiet()
    loaded, steps = load(repo, data, everything=True), Steps()
    if (start is None) != (end is None):
        raise ConfigError("--start and --end go together; give both, or neither for the held-out rows")
    span = None if start is None else (moment("--start", start), moment("--end", end))
    result = workflow.evaluate(loaded, steps, model, list(version or ()), span, tfma=tfma)
    if json_:
        show(result.to_dict(), True)
    else:
        results().print(scores_table(result.evaluation, slices))
    for number, why in result.evaluation.unknown.items():
        screen.print(f"version {number}: {why}")
    if not result.evaluation.scores:
        raise typer.Exit(1)


def promote(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    version: Annotated[int | None, typer.Option("--version", help="Version to promote (default: the challenger).")] = None,
    force: ForceOption = False,
    reason: ReasonOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the thresholds, but change nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Make a version the champion (the served version), if it passes the model's thresholds.

    It must meet the bounds, be no worse than the champion on the same rows that neither was trained on (also in every slice with enough
    rows), and match the graphs of the online rows. Exit codes: 0 promoted (or already champion); 3 refused: each failed threshold is
    listed, and why something could not be evaluated; 1 nothing to promote.
    """
    quiet()
    _with_reason(force, reason)
    from pipelines.promotion import promote as registry
    from pipelines.registry.register import register_forgotten
    from pipelines.training.user_code import model_of

    loaded, steps = load(repo, data, everything=True), Steps()
    chosen = model_of(loaded, model)
    if version is None:  # a version that is named needs no registering, and fixes a damaged file
        for late in register_forgotten(loaded, chosen.name):
            steps.say(f"version {late} was pushed by a training that was killed before registering it; registered now")
    candidate = registry.candidate_for(loaded, chosen, version)
    if candidate.version == candidate.champion:
        show({"model": candidate.model, "version": candidate.version, "outcome": "already champion"}, json_)
        steps.say(f"version {candidate.version} is already champion")
        return
    about = {"model": chosen.name, "version": candidate.version, "champion": candidate.champion}
    with _guarded(loaded, "promote", about, reason, force, dry_run) as act, recorded(loaded, "promote", params=about) as run:
        with steps.doing("judging"):
            decision = registry.decide(loaded, chosen, candidate, steps.say)
        told = decision.to_dict()
        metrics = decision.evaluation.metrics() if decision.evaluation is not None else {}
        run.save(metrics=metrics, **told)
        refused = bool(decision.missed) and (decision.damaged or not force)
        outcome = "refused" if refused else "would be promoted" if dry_run else "promoted"
        if outcome == "promoted":
            done = registry.promote(loaded, decision, datetime.now(UTC), reason=reason or "", forced=force, run=run.id)
            told["challenger"] = done.challenger
        act.outcome = outcome
        forced = bool(decision.missed) and not refused
        run.save(outcome=outcome, **({"forced": True, "reason": reason} if forced else {}))
    result = {"run": run.id, "outcome": outcome, "forced": forced, **told}
    if json_:
        show(result, True)
    elif decision.checks:
        results().print(checks_table(result))
    for note in decision.notes:
        steps.say(f"note: {note}")
    for line in decision.missed:
        steps.say(f"failed: {line}")
    if outcome == "refused":
        stays = "there is no champion" if candidate.champion is None else f"version {candidate.champion} stays champion"
        further = "A damaged version cannot be forced" if decision.damaged else "To promote anyway: --force --reason '...'"
        screen.print(f"version {candidate.version} is not promoted; {stays}. {further}")
        raise typer.Exit(REFUSED)
    before = f" (was: {candidate.champion})" if candidate.champion is not None else ""
    steps.say(f"version {candidate.version} {'is now champion' if outcome == 'promoted' else outcome}{before}")


def rollback(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    to: Annotated[int | None, typer.Option("--to", help="Former champion to roll back to (default: the previous one).")] = None,
    force: ForceOption = False,
    reason: ReasonOption = None,
    json_: JsonOption = False,
) -> None:
    """Roll back to the previous champion; repeat to go further back.

    Exit codes: 0 done; 3 refused: the version cannot be served (damaged, or it no longer matches the online rows); 1 no previous champion.
    """
    quiet()
    _with_reason(force, reason)
    from pipelines.promotion import promote as registry
    from pipelines.promotion.evaluate import read_spec
    from pipelines.training.user_code import model_of

    loaded, steps = load(repo, data, everything=True), Steps()
    chosen = model_of(loaded, model)
    champion, target = registry.rollback_to(loaded, chosen.name, to)
    about = {"model": chosen.name, "version": target, "champion": champion}
    with _guarded(loaded, "rollback", about, reason, force) as act, recorded(loaded, "rollback", params=about) as run:
        try:
            spec = read_spec(loaded.data, chosen.name, target)
            damaged = registry.damage(loaded.data, spec)
            unfit = damaged or registry.misfit(loaded, spec)
        except TandemError as e:
            damaged = unfit = str(e)
        refused = bool(damaged) or (bool(unfit) and not force)
        if not refused:
            details: dict[str, Any] = {"reason": reason, **({"forced": True, "missed": [unfit]} if unfit else {}), "run": run.id}
            registry.rollback(loaded, chosen.name, champion, target, datetime.now(UTC), details)
        act.outcome = "refused" if refused else "rolled back"
        run.save(outcome=act.outcome, reason=reason, missed=[unfit] if unfit else [])
    result = {"run": run.id, "model": chosen.name, "version": target, "before": champion, "refused": unfit if refused else ""}
    show(result, json_)
    if refused:
        further = "choose another former champion with --to" + ("" if damaged else ", or use --force --reason '...'")
        screen.print(f"not rolled back, version {champion} stays champion: {unfit}; {further}", markup=False)
        raise typer.Exit(REFUSED)
    steps.say(f"version {target} is champion again (was: {champion})")


def compare(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    model: ModelOption = None,
    since: Annotated[str | None, typer.Option("--since", help="Only predictions since this time (by the server's clock), UTC.")] = None,
    versions: Annotated[str | None, typer.Option("--versions", help="Versions as SERVED,SHADOW (default: the pair logged last).")] = None,
    more_than: Annotated[
        float, typer.Option("--more-than", min=0, help="Difference above which two predictions count as different.")
    ] = 0.05,
    json_: JsonOption = False,
) -> None:
    """Compare champion and challenger on the same requests, and against labels where they are in.

    Exit codes: 0 compared (with or without labels); 1 nothing to compare.
    """
    quiet()
    from pipelines.monitoring.labels import request_log
    from pipelines.monitoring.shadow_log import CompareOptions, run_compare
    from pipelines.training.user_code import model_of

    loaded, steps = load(repo, data, everything=True), Steps()
    chosen = model_of(loaded, model)
    options = CompareOptions(
        chosen.name,
        moment("--since", since) if since else None,
        _pair(versions),
        more_than,
        chosen.slices,
    )
    with steps.doing("comparing"):
        result = run_compare(loaded.data, request_log(loaded), options, steps.say)
    if json_:
        show(result, True)
        return
    for table in compare_tables(result):
        results().print(table)
    if result["right"] is None:
        screen.print(f"which was closer to the labels: {result['right_unknown']}")


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
        raise ConfigError(f"--versions {text!r} is invalid; give two version numbers as SERVED,SHADOW, e.g. 7,8")
    return int(parts[0]), int(parts[1])


@contextmanager
def _guarded(
    repo: Repo, action: str, about: Mapping[str, Any], reason: str | None, force: bool, dry_run: bool = False
) -> Iterator[permissions.Act]:
    """The roles are asked, and the audit log is told; a look without a change is neither."""
    from pipelines.project import permissions

    if dry_run:
        yield permissions.Act()
        return
    with permissions.guarded(repo, action, about["model"], reason or "", force=force, **about) as act:
        yield act


def _with_reason(force: bool, reason: str | None) -> None:
    if force and not (reason or "").strip():
        raise ConfigError("--force requires --reason '...'; it is recorded with the change")


def _sync(settings: Any, data: Path) -> None:
    from pipelines.tracking.model_registry import catch_up

    uri = tracking_uri(settings, data)
    try:
        told = catch_up(data, uri, settings.tracking.experiment, screen.print)
    except Exception as error:  # whatever MLflow's client raises
        raise TandemError(
            f"MLflow could not be updated ({type(error).__name__}: {error_text(error)}); the aliases themselves are unchanged; try again"
            " later"
        ) from None
    screen.print(f"sent {counted(told, 'model')} to MLflow" if told else "MLflow is up to date")
