"""How the models that ``tandem.yaml`` names differ from what their versions were trained by. Reads alone, and no TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.lake.run_records import TrainRecord
from pipelines.lake.runs import RunStore
from pipelines.planning.definition_words import span
from pipelines.planning.present_state import Version
from pipelines.project.repository import Repo
from transforms.errors import TandemError

__all__ = ["ModelChange", "model_changes"]


@dataclass(frozen=True)
class ModelChange:
    """A model that is defined otherwise than when ``version`` was trained: the one in use, else the newest.

    ``changes``: what of its definition decides the training set, in words. ``code``: the repository's files with its functions that differ,
    which may mean nothing. ``trained``: a newer version that is of the definition as it is now. ``failed``: why the definition cannot be
    read; then nothing else is known.
    """

    model: str
    version: Version | None = None
    changes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    trained: int | None = None
    failed: str = ""


def model_changes(repo: Repo, versions: Sequence[Version]) -> list[ModelChange]:
    """The models with a version that differ from it, in the order of tandem.yaml."""
    runs: dict[str, TrainRecord] = {}
    if versions:
        runs = {run.id: run.as_(TrainRecord) for run in RunStore(repo.data).as_written(TrainRecord.KIND, "complete")}
    out = []
    for reference in repo.settings.models:
        try:
            model = repo.attribute(reference)
            now = json.loads(json.dumps(model.canonical()))
        except TandemError as error:
            out.append(ModelChange(reference, failed=str(error)))
            continue
        found = [(v, r) for v in versions if v.model == model.name and (r := runs.get(v.run)) is not None and _definition(r, v.model)]
        used = next(((v, r) for v, r in found if "champion" in v.aliases), found[0] if found else None)
        if used is None:
            continue
        changes = tuple(_words(_definition(used[1], model.name), now))
        code = tuple(_code(repo.path, used[1], [reference, model.spine, model.preprocessing_fn, model.run_fn]))
        newer = [v.version for v, r in found if v.version > used[0].version and _definition(r, model.name) == now]
        if changes or code:
            out.append(ModelChange(model.name, used[0], changes, code, newer[0] if newer and changes else None))
    return out


def _definition(run: TrainRecord, model: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = run.definitions.get(f"model {model}") or {}
    return found


def _words(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, one line each."""
    for key in now:
        before, after = then.get(key), now[key]
        if before == after:
            continue
        if key == "request_fields":
            yield from _fields(before or [], after)
        elif key == "features" and isinstance(before, list) and isinstance(after, list):
            yield from (f"feature {ref} {verb}" for verb, some in _moved(before, after) for ref in some)
            if sorted(before) == sorted(after):
                yield "features in another order"
        elif key == "label_delay":
            yield f"label_delay {span(int(before or 0))} -> {span(int(after))}"
        else:
            yield f"{key} {_said(before)} -> {_said(after)}"


def _fields(before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]) -> Iterator[str]:
    then, now = ({f[0]: f[1:] for f in some} for some in (before, after))
    yield from (f"request field {name!r} {verb}" for verb, some in _moved(list(then), list(now)) for name in some)
    for name in then:
        if name in now and then[name] != now[name]:
            words = [f"{dtype}{', required' if required else ''}" for dtype, required in (then[name], now[name])]
            yield f"request field {name!r}: {words[0]} -> {words[1]}"
    if then == now:
        yield "request fields in another order"


def _moved(before: Sequence[str], after: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [("removed", [x for x in before if x not in after]), ("added", [x for x in after if x not in before])]


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else "none" if value is None else repr(value)


def _code(repo: Path, run: TrainRecord, references: Sequence[str]) -> Iterator[str]:
    """The files of these modules that are not as the run's manifest has them."""
    for name in dict.fromkeys(f"{reference.partition(':')[0].split('.')[0]}.py" for reference in references):
        then = (run.code.get("files") or {}).get(f"repo/{name}")
        try:
            now = hashlib.sha256((repo / name).read_bytes()).hexdigest()[:16]
        except OSError:
            continue
        if then is not None and then != now:
            yield name
