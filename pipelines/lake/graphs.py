"""Which transform graph of a group is applied: one reader (``transforms.data_folder.applied_graph``) and one writer.

How the registry and the online store come along: :mod:`pipelines.feature_store.applying`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.lake import layout, shared
from pipelines.lake.data_files import fsync_folder, write_bytes, write_json
from transforms.acceptance import accepts_more
from transforms.data_folder import APPLYING, applied_graph, under_way
from transforms.definitions import FeatureGroup
from transforms.errors import DataError, GraphError, may_not_read
from transforms.graph import check_files

__all__ = [
    "apply_graph", "applied_graph", "applied_graphs", "applying", "begin_apply", "carried_over", "end_apply", "folder", "graph_damage",
    "graph_for", "hash_of", "have_graph", "remember_definitions", "since",
]  # fmt: skip


def folder(data: Path) -> Path:
    """Where the graphs of all groups are."""
    return layout.graphs(data)


def applied_graphs(data: Path) -> dict[str, str]:
    """Group -> fingerprint of its applied graph, for all groups that have one."""
    place = folder(data)
    names = {path.parent.name for path in place.glob(f"*/{layout.CURRENT}")} | set(under_way(place) or {})
    found = ((name, applied_graph(place, name)) for name in sorted(names))
    return {group: fingerprint for group, fingerprint in found if fingerprint is not None}


def applying(data: Path) -> dict[str, str] | None:
    """Group -> fingerprint of an apply that is under way, or was killed; None if there is none."""
    return under_way(folder(data))


def begin_apply(data: Path, fingerprints: Mapping[str, str]) -> None:
    """From now on these graphs are the applied ones, all at once."""
    for group, fingerprint in fingerprints.items():
        shared.publish(data, layout.graph(data, group, fingerprint))
    file = folder(data) / APPLYING
    content = json.dumps(dict(fingerprints), indent=2).encode() + b"\n"
    shared.move(data, file, lambda new: write_bytes(file, new, durable=True), content)


def end_apply(data: Path) -> None:
    """All places know the graphs of :func:`begin_apply`."""
    file = folder(data) / APPLYING

    def remove(nothing: bytes) -> None:
        file.unlink(missing_ok=True)
        fsync_folder(folder(data))

    shared.move(data, file, remove, b"")


def apply_graph(data: Path, group: str, fingerprint: str) -> None:
    """From now on rows of ``group`` are made and read with this graph. Readers see the one before or this one."""
    file = layout.graphs(data) / group / layout.CURRENT
    content = f"{fingerprint}\n".encode()
    if not file.exists() or file.read_bytes() != content:
        shared.publish(data, layout.graph(data, group, fingerprint))
        shared.move(data, file, lambda new: write_bytes(file, new), content)


def graph_for(data: Path, group: FeatureGroup, make: str) -> str:
    """The fingerprint of the graph that is applied to ``group`` as it is defined now; its files are not verified.

    It may have been made of a definition that accepted less (:func:`carried_over`).
    Raises GraphError, which ends with ``make`` (what is to be run), if none is applied, or one of another definition.
    """
    fingerprint = applied_graph(layout.graphs(data), group.name)
    if fingerprint is None:
        raise GraphError(f"feature group {group.name!r} has no applied graph; run {make} first")
    try:
        made_of = hash_of(data, group.name, fingerprint)
    except (OSError, ValueError, KeyError, TypeError):
        raise GraphError(f"the graph {fingerprint[:12]} that is applied to {group.name!r} cannot be read; run {make} first") from None
    if carried_over(data, group, made_of) is None:
        raise GraphError(f"feature group {group.name!r} was redefined after its graph {fingerprint[:12]} was applied; run {make} first")
    return fingerprint


def hash_of(data: Path, group: str, fingerprint: str) -> str:
    """The hash of the definition that a graph was made of. Raises OSError, ValueError, KeyError or TypeError where its head is damaged,
    DataError where this user may not read it."""
    head = layout.graph(data, group, fingerprint) / layout.SPEC_FILE

    def read() -> str:
        made: str = json.loads(_text(head))["definition_hash"]
        return made

    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError):
        if not shared.is_shared(data):
            raise
    with suppress(DataError):  # the store's own copy is damaged
        have_graph(data, group, fingerprint)
    return read()


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except PermissionError as error:
        raise may_not_read(error) from None


def have_graph(data: Path, group: str, fingerprint: str) -> None:
    """Where ``data`` is a cache of an object store: have the graph's files, and have them again where the copy here is damaged.

    Raises DataError where the store's copy is damaged or gone, too; StoreError where the store cannot be reached."""
    place = layout.graph(data, group, fingerprint)
    shared.have(data, place)
    if shared.is_shared(data) and place.exists() and _wrong(place, fingerprint):
        shared.have_again(data, place)


def graph_damage(data: Path, group: str, fingerprint: str) -> str:
    """What is wrong with the files of a graph, in one line; empty where nothing is. Raises DataError where this user may not read them.

    A cache of an object store need not hold it, and a damaged copy there is fetched again: it is wrong where the store's is, too.
    """
    place = layout.graph(data, group, fingerprint)
    if not shared.is_shared(data):
        return _wrong(place, fingerprint)
    if not place.exists() or not (wrong := _wrong(place, fingerprint)):
        return ""
    with suppress(DataError):  # of the store's own copy
        have_graph(data, group, fingerprint)
        wrong = _wrong(place, fingerprint)
    return wrong


def _wrong(place: Path, fingerprint: str) -> str:
    try:
        check_files(place, fingerprint)
    except (GraphError, OSError) as error:
        return str(error)
    return ""


def remember_definitions(data: Path, groups: Iterable[FeatureGroup]) -> None:
    """Keep what the groups' hashes stand for, so that later definitions can be compared with it."""
    for group in groups:
        path = _definition(data, group.name, group.definition_hash())
        if not path.exists():
            write_json(path, group.canonical())
            shared.send_file(data, path)


def carried_over(data: Path, group: FeatureGroup, made_of: str) -> list[str] | None:
    """What the present definition accepts more than the one of the hash ``made_of``: what was made of that one holds still.

    None where it was redefined otherwise, or where nothing tells what the hash stands for.
    """
    if made_of == group.definition_hash():
        return []
    try:
        path = _definition(data, group.name, made_of)
        shared.have_file(data, path)
        before = json.loads(_text(path))
    except (OSError, ValueError):
        return None
    return since(before, group)


def since(before: Mapping[str, Any] | None, group: FeatureGroup) -> list[str] | None:
    """As :func:`carried_over`, of a definition as a manifest has it (None: it had no such group)."""
    return None if before is None else accepts_more(before, json.loads(json.dumps(group.canonical())))


def _definition(data: Path, group: str, made_of: str) -> Path:
    return layout.graphs(data) / group / "definitions" / f"{made_of}.json"
