"""One retraining: batch, train, promote, as children of one run. What is done is noted, so that a broken one goes on where it was.

The run's key is the data that is learnt from (:func:`pipelines.watch.observations.key_of`): the same data is never
trained on twice by the watch, whoever asks for it and how often. One retraining at a time holds
``data/watch/retrain.lock``; ``tandem train`` has a lock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.run_records import RetrainRecord
from pipelines.lake.runs import Run, list_runs
from pipelines.project.recording import Stopped, recorded
from pipelines.registry.alias_file import current, model_folder, versions_on_disk
from pipelines.watch.child_commands import Commands
from pipelines.watch.decide import Trigger
from pipelines.watch.observations import KIND, Range, version_facts
from transforms.errors import DataError
from transforms.locks import try_lock

__all__ = ["NOT_BLESSED", "REFUSED", "Outcome", "alone", "retrain"]

NOT_BLESSED = 3
"""Exit code of ``tandem train`` for a model that was trained well and is not good enough to be pushed."""
REFUSED = 3
"""Exit code of ``tandem promote`` when a threshold does not hold."""


@dataclass(frozen=True)
class Outcome:
    """How a retraining ended: promoted, pushed (``watch.promote`` is off: a person promotes), refused (by a threshold of promotion) or
    not blessed; its version, where it has one."""

    run: str
    what: str
    version: int | None = None
    detail: str = ""


@contextmanager
def alone(data: Path) -> Iterator[bool]:
    """Whether nobody else retrains on this data folder; if so, we do until the end of the body (or of the process)."""
    with try_lock(layout.watch(data) / "retrain.lock") as mine:
        yield mine


def retrain(
    place: Any,
    model: str,
    key: Mapping[str, Any],
    triggers: Sequence[Trigger],
    span: Range,
    commands: Commands,
    clock: Callable[[], datetime],
    say: Callable[[str], None],
) -> Outcome:
    """Make the rows, train, and let the thresholds decide. Call it within :func:`alone`, for a key that was not tried to its end.

    Raises DataError when a command fails (the run is failed then, and the next call for this key goes on with the step that
    failed), Stopped when ``commands`` are to stop.
    """
    said = [asdict(t) for t in triggers]
    fields: dict[str, Any] = {"model": model, "triggers": said, "range": [span.train_start.isoformat(), span.end.isoformat()]}
    with recorded(place, KIND, key=dict(key), rerun=False, now=clock(), **fields) as run:
        run.save(tries=int(run.as_(RetrainRecord).tries) + 1, begun=clock().isoformat(), asked_to_stop=False)
        try:
            why = "; ".join(f"{t.name}: {t.why}" for t in triggers)
            outcome = _steps(place.data, run, model, span, commands, say, why if place.settings.watch.promote else None)
        except Stopped:
            run.save(tries=int(run.as_(RetrainRecord).tries) - 1, asked_to_stop=True)
            raise
        run.save(outcome=outcome.what, version=outcome.version, detail=outcome.detail)
        return outcome


def _steps(data: Path, run: Run, model: str, span: Range, commands: Commands, say: Callable[[str], None], promotes: str | None) -> Outcome:
    """``promotes``: why a version is promoted that holds the thresholds; None: it is left to a person."""

    def command(*words: str, fine: tuple[int, ...] = (0,)) -> tuple[int, str]:
        say(f"{run.id}: tandem {' '.join(words)}")
        code, why = commands.run(words)
        if code not in fine:
            raise DataError(f"tandem {words[0]} failed (exit code {code}): {why}")
        return code, why

    end = span.end.isoformat()
    trained = _trained(data, run)
    if trained is None:
        command("batch", "--pinned", "--start", span.batch_start.isoformat(), "--end", end)
        code, why = command("train", "--model", model, "--start", span.train_start.isoformat(), "--end", end, fine=(0, NOT_BLESSED))
        if code == NOT_BLESSED:
            why = _reasons(_trained(data, run)) or why
            say(f"{run.id}: the new model is not blessed, so the champion stays: {why}")
            return Outcome(run.id, "not blessed", None, why)
        trained = _trained(data, run)
    version = _version_of(data, model, trained) if trained is not None else None
    if version is None:  # also where a try before this one was cut off after a training that blessed nothing
        return Outcome(run.id, "not blessed", None, _reasons(trained))
    if current(model_folder(data, model)).champion == version:  # a first version, or a promotion before a crash
        return Outcome(run.id, "promoted", version)
    if promotes is None:
        fix = f"'tandem promote --model {model} --version {version}' evaluates it (watch.promote: true does this automatically)"
        say(f"{run.id}: version {version} of {model} is pushed and not promoted; {fix}")
        return Outcome(run.id, "pushed", version, f"the champion stays; {fix}")
    reason = f"tandem watch, {promotes}"
    code, why = command("promote", "--model", model, "--version", str(version), "--reason", reason, fine=(0, REFUSED))
    if current(model_folder(data, model)).champion == version:
        say(f"{run.id}: version {version} of {model} is the champion now")
        return Outcome(run.id, "promoted", version)
    judged = [r for r in list_runs(data) if r.kind == "promote" and r.head.parent == run.id]
    why = "; ".join(judged[-1].record.missed) or why if judged else why
    say(f"{run.id}: version {version} of {model} is not promoted, the champion stays: {why}")
    return Outcome(run.id, "refused", version, why)


def _trained(data: Path, run: Run) -> Run | None:
    """The training that an earlier try of ``run``, or this one, brought to its end."""
    return next((r for r in list_runs(data) if r.kind == "train" and r.status == "complete" and r.head.parent == run.id), None)


def _reasons(trained: Run | None) -> str:
    """Why a training pushed nothing."""
    return "; ".join(map(str, trained.record.reasons)) if trained is not None else ""


def _version_of(data: Path, model: str, trained: Run) -> int | None:
    """The version that a training pushed."""
    folder = model_folder(data, model)
    return next((v for v in reversed(versions_on_disk(folder)) if version_facts(data, model, v).get("run") == trained.id), None)
