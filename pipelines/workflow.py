"""What the commands do, as plain functions: events, batch, apply, materialize, train, evaluate, and all of them in a row.

The command line, the demo, notebooks and MLproject call these. Each is one recorded run (:mod:`pipelines.project.recording`), says what
it does through ``steps`` and raises a TandemError of one line. Light at import.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipelines.lake import runs, shared
from pipelines.lake.counted import counted
from pipelines.lake.run_records import PipelineRecord, TrainRecord
from pipelines.lake.runs import find, list_runs
from pipelines.lake.user_output import stdout_to_stderr
from pipelines.project import recording
from pipelines.project.config import moment
from pipelines.project.recording import recorded
from pipelines.tracking.run_observer import RunObserver
from transforms.errors import ConfigError, DataError
from transforms.instants import as_option
from transforms.plain_paths import plain_path

if TYPE_CHECKING:
    from pipelines.engines.batch_engines import EngineFlags
    from pipelines.lake.runs import Run
    from pipelines.project.repository import Repo
    from pipelines.promotion.evaluate import Evaluation
    from pipelines.reports.terminal import Steps
    from pipelines.training.experiments import Comparison

__all__ = [
    "SEED", "Evaluated", "PipelineDone", "apply", "batch", "evaluate", "experiments", "make_events", "materialize", "pipeline", "train",
    "trained_once",
]  # fmt: skip

SEED = 20130101

recording.observe(RunObserver())  # whoever works through this module or the command line has its runs tracked as tandem.yaml says


@stdout_to_stderr()
def make_events(repo: Repo, start: str | None, end: str | None, steps: Steps) -> dict[str, int]:
    """Write event logs for a range (dates of UTC); returns events per source."""
    demo = repo.settings.demo
    if not demo.events:
        raise ConfigError("tandem.yaml: demo.events is missing; name a function 'module:function' that writes event logs")
    first, last = moment("--start", start, demo.start).date(), moment("--end", end, demo.end).date()

    with recorded(repo, "events", range=[f"{first}T00:00:00+00:00", f"{last}T00:00:00+00:00"]) as run, steps.doing("writing event logs"):
        counts: dict[str, int] = repo.attribute(demo.events)(repo.data, first - timedelta(days=2), last + timedelta(days=1), None)
        shared.send_files(repo.data, ["events", *(s.files for s in repo.sources.values() if s.files and s.table is None)])
        run.add(events=counts, counts={f"events/{n}": v for n, v in counts.items()})
    steps.say(f"event logs of {first} to {last}: " + ", ".join(f"{n:,} {source}" for source, n in counts.items()))
    return counts


@stdout_to_stderr()
def batch(
    repo: Repo,
    start: datetime | None,
    end: datetime,
    steps: Steps,
    runner: str = "DirectRunner",
    args: list[str] | None = None,
    pinned: bool = False,
    rerun: bool = False,
    from_run: str | None = None,
    flags: EngineFlags | None = None,
    *,
    anew: bool | None = None,
) -> Run:
    """Run the batch job, over a range or from where the run ``from_run`` ended; returns its run.

    ``runner``: an engine of :mod:`pipelines.engines.batch_engines`, with its ``flags``, or Beam's name of one; ``args`` are for Beam.
    ``rerun``: also where a complete run holds these rows. ``anew`` is its old name, and warns (DeprecationWarning)."""
    if anew is not None:
        warnings.warn("batch(anew=...) is now called rerun", DeprecationWarning, stacklevel=2)
        rerun = anew
    from pipelines.batch.batch_job import run_batch
    from pipelines.engines.batch_engines import EngineFlags, engine_of

    engine = engine_of(runner, repo, flags or EngineFlags(), args or [])
    with steps.doing("batch"):
        result = run_batch(
            repo,
            start,
            end,
            now=datetime.now(UTC),
            from_run=from_run,
            engine=engine,
            pinned=pinned,
            rerun=rerun,
            progress=steps.say,
        )
    return result.run


def apply(repo: Repo, run_id: str | None, steps: Steps, why: str = "", take_over: bool = False) -> None:
    """Apply the graphs of a run, if the user may. ``take_over``: also where another data folder writes the online store's rows now."""
    from pipelines.batch.batch_job import graphs_of, newest_graphs, plain_graphs
    from pipelines.feature_store.applying import apply_fingerprints
    from pipelines.feature_store.feature_services import short_ttl
    from pipelines.project import permissions

    complete = [r for r in runs.list_runs(repo.data) if r.kind == "batch" and r.status == "complete"]
    also = {"take_over": True} if take_over else {}
    if run_id is None and not complete:
        # Nothing is learnt for groups without a preprocessing_fn: their graphs need no run.
        with (
            permissions.guarded(repo, "apply", "no run", why, **also) as act,
            recording.recorded(repo, "apply") as applying,
            steps.doing("apply"),
        ):
            fingerprints = apply_fingerprints(repo, lambda: plain_graphs(repo), steps.say, take_over)
            applying.save(fingerprints=fingerprints)
            act.details["fingerprints"] = fingerprints
        steps.say(f"applied {counted(fingerprints, 'graph')} that need no history (groups without a preprocessing_fn)")
        return
    used = [runs.find(repo.data, run_id, "batch")] if run_id else complete[-1:]

    def choose() -> Mapping[str, str]:
        nonlocal used
        if run_id:
            return graphs_of(repo, used[0])
        chosen, used = newest_graphs(repo, complete)
        return chosen

    with (
        permissions.guarded(repo, "apply", used[0].id, why, **also) as act,
        recording.recorded(repo, "apply", of_run=used[0].id, range=used[0].head.range) as applying,
        steps.doing("apply"),
    ):
        fingerprints = apply_fingerprints(repo, choose, steps.say, take_over)
        applying.save(fingerprints=fingerprints)
        act.details["fingerprints"] = fingerprints
    for of in used:
        which = [n for n in fingerprints if of.record.fingerprints.get(n) == fingerprints[n]]
        steps.say(f"applied {counted(which, 'graph')} of {of.id}" + (f": {', '.join(which)}" if len(used) > 1 else ""))
    for group in repo.groups.values():
        if line := short_ttl(group):
            steps.say(line)


def materialize(repo: Repo, start: datetime, end: datetime, steps: Steps) -> None:
    """Materialize all views."""
    from pipelines.feature_store.applying import finish
    from pipelines.feature_store.materialize import materialize as into_online_store
    from pipelines.feature_store.none_loaded import why_none
    from pipelines.lake.graphs import applied_graphs

    if start > end:
        raise ConfigError(f"range {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}: the end is before the start")
    finish(repo, steps.say)
    with recorded(repo, "materialize", range=[start.isoformat(), end.isoformat()]) as run, steps.doing("materialize"):
        made = into_online_store(repo, start, end, say=steps.say)
        run.save(fingerprints=applied_graphs(repo.data))
        run.add(counts={f"rows/{m.view}": m.rows for m in made} | {f"dropped/{m.view}": m.dropped for m in made if m.dropped})
        if not any(m.rows or m.newer or m.dropped for m in made):
            raise DataError(
                f"no view has rows from {start:%Y-%m-%dT%H:%M} to {end:%Y-%m-%dT%H:%M}, nothing was loaded; {why_none(repo, start, end)}"
            )
    for m in made:
        more = [f"{m.dropped:,} keys deleted: the runs no longer have rows for them"] if m.dropped else []
        more += [f"{m.newer:,} keys unchanged: a stream has newer rows"] if m.newer else []
        more += [f"{m.refused:,} rows refused: they are in the future"] if m.refused else []
        more += [f"{m.too_large:,} rows refused: they are larger than the online store takes"] if m.too_large else []
        what = f"{m.rows:,} rows" if m.rows or m.newer else "no row in this range"
        steps.say(f"{m.view}: {'; '.join([what, *more])}")
    steps.say(f"materialized {as_option(start)} to {as_option(end)} into the online store")


@stdout_to_stderr()
def train(
    repo: Repo,
    start: datetime,
    end: datetime,
    steps: Steps,
    model: str | None = None,
    seed: int = SEED,
    params: Mapping[str, Any] | None = None,
    push: bool = True,
    once: str | None = None,
) -> Any:
    """Train one model; ``once`` is kept with the run, for :func:`trained_once`."""
    from pipelines.feature_store.applying import finish
    from pipelines.training import train as run_training
    from pipelines.training.user_code import model_of

    finish(repo, steps.say)
    definition = model_of(repo, model)
    given = dict(params or {})
    with steps.doing("training"):
        return run_training(
            definition,
            repo=repo.path,
            data=repo.data,
            start=start,
            end=end,
            progress=steps.timed,
            seed=seed,
            params=given,
            push=push,
            say=steps.say,
            once=once,
        )


def trained_once(repo: Repo, model: str | None, once: str) -> Run | None:
    """The complete training of a model that was made for this text, if there is one."""
    from pipelines.training.user_code import model_of

    name = model_of(repo, model).name
    of_model = (r for r in list_runs(repo.data) if r.kind == "train" and r.status == "complete" and r.head.model == name)
    return next((r for r in of_model if r.as_(TrainRecord).once == once), None)


@stdout_to_stderr()
def experiments(
    repo: Repo,
    chosen: list[dict[str, Any]],
    start: datetime,
    end: datetime,
    steps: Steps,
    model: str | None = None,
    seed: int = SEED,
    metric: str = "test/auc",
    jobs: int | None = None,
) -> Comparison:
    """Train all of ``chosen`` in processes of their own, below one run."""
    from pipelines.training.experiments import Comparison, plan, run_experiments
    from pipelines.training.user_code import model_of

    definition = model_of(repo, model)
    plan(definition, chosen, metric)  # what is wrong with a parameter is no run
    asked: dict[str, Any] = {
        "model": definition.name,
        "range": [t.astimezone(UTC).isoformat() for t in (start, end)],
        "seeds": {"seed": seed},
    }
    with recorded(repo, "experiments", **asked) as run, steps.doing("experiments"):
        done = run_experiments(
            definition,
            chosen,
            run,
            repo=repo.path,
            data=repo.data,
            start=start,
            end=end,
            seed=seed,
            metric=metric,
            jobs=jobs,
            say=steps.say,
        )
        return Comparison.of(done, metric)


@dataclass(frozen=True)
class Evaluated:
    """Versions that were scored, and the run in which."""

    run: str
    evaluation: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {"run": self.run, **self.evaluation.to_dict()}


@stdout_to_stderr()
def evaluate(
    repo: Repo,
    steps: Steps,
    model: str | None = None,
    versions: Sequence[int] = (),
    span: tuple[datetime, datetime] | None = None,
    tfma: bool = True,
) -> Evaluated:
    """Score versions (default: champion and challenger) on the labelled rows of ``span``, or on those held out from all trainings."""
    from pipelines.feature_store.applying import finish
    from pipelines.promotion.evaluate import evaluate as score
    from pipelines.promotion.evaluate import write_tfma
    from pipelines.registry.alias_file import current, model_folder
    from pipelines.training.user_code import model_of

    finish(repo, steps.say)
    chosen = model_of(repo, model)
    if not versions:
        now = current(model_folder(repo.data, chosen.name))
        versions = [v for v in (now.champion, now.challenger) if v is not None]
    if not versions:
        raise ConfigError(f"model {chosen.name!r}: no version has been pushed; run 'tandem train'")
    with recorded(repo, "evaluate", params={"model": chosen.name, "versions": ",".join(map(str, versions))}) as run:
        with steps.doing("evaluating"):
            found = score(repo, chosen, list(versions), *(span or (None, None)))
            steps.say(f"{found.holdout.table.num_rows:,} rows: {found.holdout.how}")
            run.save(evaluation=found.to_dict(), metrics=found.metrics())
            if tfma and found.predictions:
                folders = write_tfma(found, chosen, run.folder / "tfma")
                run.save(tfma={str(v): str(f.relative_to(repo.data)) for v, f in folders.items()})
                steps.say(f"TFMA: tfma.load_eval_result('{plain_path(next(iter(folders.values())))}')")
        return Evaluated(run.id, found)


@dataclass(frozen=True)
class PipelineDone:
    """A pipeline run that came to its end: its ``steps`` and what each left (a run, or that it is done), the ``version`` that was pushed
    (None: ``reasons`` say why not), and the training's ``metrics``."""

    run: str
    steps: Mapping[str, str]
    version: int | None
    reasons: Sequence[str]
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return dict(vars(self))


@stdout_to_stderr()
def pipeline(
    repo: Repo,
    start: datetime,
    end: datetime,
    train_start: datetime,
    steps: Steps,
    model: str | None,
    seed: int,
    params: dict[str, Any],
    events: bool = False,
) -> PipelineDone:
    """Run all steps below one run; an earlier one of the same question that did not end is gone on with: what it finished stays."""
    from pipelines.training.user_code import model_of

    definition = model_of(repo, model)
    chosen = definition.with_params(params)
    first, last, begin = (t.astimezone(UTC).isoformat() for t in (start, end, train_start))
    key = {"range": [first, last], "train_start": begin, "model": definition.name, "seed": seed, "params": chosen, "events": events}
    asked: dict[str, Any] = {
        "model": definition.name,
        "range": [first, last],
        "train_start": begin,
        "params": chosen,
        "seeds": {"seed": seed},
    }
    with recorded(repo, "pipeline", key=key, rerun=True, **asked) as run:
        done = dict(run.as_(PipelineRecord).steps)
        if events and "events" not in done:
            make_events(repo, f"{start:%Y-%m-%d}", f"{end:%Y-%m-%d}", steps)
            _done(run, done, events="written")
        rows_of = batch(repo, start, end, steps).id  # complete already, it is found by its inputs
        if done.get("batch") != rows_of:
            done = {k: v for k, v in done.items() if k == "events"}  # the inputs changed meanwhile: what followed is of others
            _done(run, done, batch=rows_of)
        if "apply" not in done:
            apply(repo, rows_of, steps, f"pipeline run {run.id}")
            _done(run, done, apply="done")
        if "materialize" not in done:
            materialize(repo, start, end, steps)
            _done(run, done, materialize="done")
        if "train" not in done:
            trained = train(repo, train_start, end, steps, definition.name, seed, params)
            run.add(metrics=_metrics(repo, trained.run), links={"training_set": trained.training_set.id})
            run.save(version=trained.version, reasons=list(trained.pipeline.reasons))
            _done(run, done, train=trained.run)
        if "evaluate" not in done and run.head.version is not None:
            evaluate(repo, steps, definition.name, [run.head.version])
            _done(run, done, evaluate="done")
        return PipelineDone(run.id, done, run.head.version, run.record.reasons, run.record.metrics)


def _done(run: Run, done: dict[str, Any], **step: Any) -> None:
    done.update(step)
    run.save(steps=dict(done))


def _metrics(repo: Repo, train_run: str) -> dict[str, float]:
    return dict(find(repo.data, train_run).record.metrics)
