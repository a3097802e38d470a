"""The marks in manifests of what an erasure changed, and of what was made from that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipelines.forgetting.subject import Subject
from pipelines.lake import layout, shared
from pipelines.lake.data_files import read_json, write_json

__all__ = ["mark_manifests", "owners"]


def mark_manifests(data: Path, subject: Subject, changed: Iterable[str]) -> list[str]:
    """Mark the manifests of runs and training sets that lost rows as ``erased``, and of those that were made from them, with a hash of the
    keys; their names. ``changed``: the files that are to be rewritten or deleted. All by their names below the data folder."""
    marked, touched = [], {part for name in changed for part in owners(name)}
    manifests = [*layout.runs(data).glob(f"*/{layout.MANIFEST}"), *layout.training(data).glob(f"*/{layout.MANIFEST}")]
    texts = {path: path.read_text(errors="replace") for path in manifests}
    changed_ones = {p.parent.name for p in manifests if p.parent.name in touched}
    grew = True
    while grew:  # a run that names an owner depends on it: training sets on rows, trainings on sets, evaluations on trainings
        left = {p.parent.name: text for p, text in texts.items() if p.parent.name not in changed_ones}
        more = {name for name, text in left.items() if any(_names(text, owner) for owner in changed_ones)}
        changed_ones, grew = changed_ones | more, bool(more)
    for path in manifests:
        manifest = read_json(path)
        if path.parent.name in changed_ones and manifest is not None:
            direct = path.parent.name in touched
            mark = {
                "at": datetime.now(UTC).isoformat(),
                "subject": subject.digest,
                "what": "rows" if direct else "built from erased rows",
            }
            marks = {"erased": [*manifest.get("erased", []), mark]}
            if path.is_relative_to(layout.runs(data)):
                manifest = shared.put_manifest(data, path.parent.name, {**manifest, **marks}, marks)
            write_json(path, {**manifest, **marks}, durable=True)
            marked.append(path.relative_to(data).as_posix())
    return marked


def _names(text: str, owner: str) -> bool:
    """Whether a text names an owner, and not only one whose name begins with it."""
    return re.search(rf"{re.escape(owner)}(?![\w-])", text) is not None


def owners(name: str) -> Iterator[str]:
    """The runs and training sets that a file is part of, by its name below the data folder."""
    parts = name.split("/")
    if parts[0] in ("runs", "training"):
        yield parts[1]
    yield from (part.removeprefix("run=") for part in parts if part.startswith("run="))
