"""Promotion and rollback: who is champion moves only for a reason that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.project.repository import Repo
from pipelines.promotion.evaluate import Evaluation, evaluate, read_spec
from pipelines.promotion.verdict import Check, judge, missed
from pipelines.registry.alias_file import MovedError, change, current, model_folder, versions_on_disk
from pipelines.training.definition import Model
from serving.aliases import Aliases
from serving.model_files import check_model_files
from serving.models import MODEL_FILES, ModelSpec
from serving.request_errors import ModelError
from serving.settings import ServingSettings
from transforms.errors import DataError, TandemError

__all__ = ["Candidate", "Decision", "candidate_for", "damage", "decide", "misfit", "promote", "rollback", "rollback_to"]


@dataclass(frozen=True)
class Candidate:
    """Which version is to become champion in the place of which."""

    model: str
    version: int
    champion: int | None
    spec: ModelSpec


@dataclass(frozen=True)
class Decision:
    """The verdict on a version: every check, why it may not become champion, and the evaluation that both rest on."""

    candidate: Candidate
    checks: tuple[Check, ...]
    missed: tuple[str, ...]
    notes: tuple[str, ...]
    evaluation: Evaluation | None
    damaged: bool = False
    """No server could load it: nothing can force it."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            "model": self.candidate.model,
            "version": self.candidate.version,
            "champion": self.candidate.champion,
            "missed": list(self.missed),
            "notes": list(self.notes),
            "checks": [c.to_dict() for c in self.checks],
            "evaluation": self.evaluation.to_dict() if self.evaluation is not None else None,
        }


def damage(data: Path, spec: ModelSpec) -> str:
    """Why a version cannot be loaded, whatever is applied: its files are not those that were pushed. Empty: they are. Reads all of them."""
    folder, what = model_folder(data, spec.name) / str(spec.version), f"model {spec.name!r} version {spec.version}"
    if not any((folder / name).is_file() for name in MODEL_FILES):
        return f"{what}: there is no {' or '.join(MODEL_FILES)}; push it again"
    try:
        check_model_files(folder, spec.raw, what)  # the server's own question
    except ModelError as e:
        return str(e)
    return ""


def misfit(repo: Repo, spec: ModelSpec) -> str:
    """Why the server would not serve a version now: it is damaged (:func:`damage`), its graphs are not those of the online rows, or a
    feature does not exist any longer. Empty: it would."""
    from serving.dataplane import Dataplane

    data = repo.data
    if found := damage(data, spec):
        return found
    plane = Dataplane(ServingSettings(feature_repo=repo.path, models=layout.models(data), graphs=layout.graphs(data)))
    plane.features.refresh()
    try:
        plane.check(spec)  # the server's own question
    except TandemError as e:
        return str(e)
    return ""


def candidate_for(repo: Repo, model: Model, version: int | None) -> Candidate:
    """The version to promote (default: the challenger). Raises DataError if there is none."""
    folder = model_folder(repo.data, model.name)
    try:
        now = current(folder)
    except ModelError:
        if version is None:
            raise
        now = Aliases()  # the file is damaged: a version that is named begins it anew
    chosen = version if version is not None else now.challenger
    if chosen is None:
        have = ", ".join(map(str, versions_on_disk(folder)[-8:])) or "none"
        raise DataError(f"model {model.name!r} has no challenger; choose a version with --version (existing versions: {have})")
    return Candidate(model.name, chosen, now.champion, read_spec(repo.data, model.name, chosen))


def decide(repo: Repo, model: Model, candidate: Candidate, say: Callable[[str], None] = lambda line: None) -> Decision:
    """Whether a version may become champion: it fits the online rows, and holds the model's thresholds by itself, beside the champion on
    the same rows that neither was trained on, and in every slice that has enough of them."""
    out: list[str] = []
    notes: list[str] = []
    if broken := damage(repo.data, candidate.spec):
        return Decision(candidate, (), (f"the server would refuse it: {broken}",), (), None, damaged=True)
    unfit = misfit(repo, candidate.spec)
    if unfit:
        out.append(f"the server would refuse it: {unfit}")
    versions, champion_fits = [candidate.version], False
    if candidate.champion is not None and candidate.champion != candidate.version:
        try:
            champion_unfit = misfit(repo, read_spec(repo.data, model.name, candidate.champion))
        except TandemError as e:
            champion_unfit = str(e)
        champion_fits = not champion_unfit
        if champion_fits:
            versions.append(candidate.champion)
        else:
            notes.append(f"champion version {candidate.champion} can no longer be served, so it is not compared with: {champion_unfit}")
    elif candidate.champion is None:
        notes.append("there is no champion to compare with")
    try:
        found = evaluate(repo, model, versions)
    except TandemError as e:
        return Decision(candidate, (), (*out, f"it cannot be evaluated: {e}"), tuple(notes), None)
    say(f"{found.holdout.table.num_rows:,} rows: {found.holdout.how}")
    if candidate.version in found.unknown:
        out.append(f"it cannot be evaluated: {found.unknown[candidate.version]}")
    if champion_fits and candidate.champion is not None and candidate.champion in found.unknown:
        out.append(f"it cannot be compared with champion version {candidate.champion}: {found.unknown[candidate.champion]}")
    for version, rows in found.holdout.seen.items():
        notes.append(f"version {version} was trained on {rows:,} of the {found.holdout.table.num_rows:,} rows")
    for version in found.holdout.unsure:
        notes.append(f"the training set of version {version} no longer exists, so it may have been trained on these rows")
    mine = found.scores.get(candidate.version)
    theirs = found.scores.get(candidate.champion) if candidate.champion is not None and champion_fits else None
    checks = judge(model.thresholds, mine, theirs) if mine is not None else []
    return Decision(candidate, tuple(checks), (*out, *missed(checks)), tuple(notes), found)


def promote(repo: Repo, decision: Decision, now: datetime, *, reason: str = "", forced: bool = False, run: str = "") -> Aliases:
    """Make the version champion. Raises MovedError if the champion is not the one any more that it was compared with, DataError if the
    decision says no and it is not ``forced``, or the version is damaged."""
    candidate = decision.candidate
    if decision.missed and (decision.damaged or not forced):
        raise DataError(f"version {candidate.version} is not promoted: {'; '.join(decision.missed)}")

    def move(found: Aliases) -> tuple[int | None, int | None]:
        if found.champion != candidate.champion:
            raise MovedError(
                f"model {candidate.model!r}: version {found.champion} became champion in the meantime, but version {candidate.version} was"
                f" compared with {candidate.champion}; check it and promote again"
            )
        return candidate.version, None if found.challenger == candidate.version else found.challenger

    details: dict[str, Any] = {"version": candidate.version, "reason": reason, "evaluation": run}
    details |= {"forced": forced, "missed": list(decision.missed)} if decision.missed else {}
    return change(model_folder(repo.data, candidate.model), "promote", move, now, repair=True, **details)


def rollback_to(repo: Repo, model: str, to: int | None) -> tuple[int, int]:
    """(the champion, the version to go back to): the champion before, or ``to``. Raises DataError if there is none."""
    folder = model_folder(repo.data, model)
    found = current(folder)
    if found.champion is None:
        raise DataError(f"model {model!r} has no champion; promote a version first")
    before = [v for v in found.champions if v != found.champion]
    target = to if to is not None else next(iter(before), None)
    if target is None:
        raise DataError(f"model {model!r}: version {found.champion} is the first champion; there is no previous one to roll back to")
    if target == found.champion:
        raise DataError(f"model {model!r}: version {target} is already champion")
    if target not in before:
        known = ", ".join(map(str, before)) or "none"
        raise DataError(
            f"model {model!r}: version {target} was never champion; former champions: {known}. Use 'tandem promote' for any other version"
        )
    return found.champion, target


def rollback(repo: Repo, model: str, champion: int, target: int, now: datetime, details: Mapping[str, Any]) -> Aliases:
    """Make ``target``, a champion before, champion again. Raises MovedError if ``champion`` is not the champion any more."""

    def move(found: Aliases) -> tuple[int | None, int | None]:
        if found.champion != champion:
            raise MovedError(f"model {model!r}: version {found.champion} became champion in the meantime; check it and roll back again")
        # The version that is taken back is no challenger: nothing is to promote it again by itself.
        return target, None if found.challenger in (target, champion) else found.challenger

    return change(model_folder(repo.data, model), "rollback", move, now, version=target, **details)
