"""The manifests of runs in the store, one object each: a list of runs is a list of these, never of folders."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.object_store.cache import Cache, safe
from serving.object_store.object_store import Versioned
from transforms import data_folder
from transforms.data_folder import MANIFEST
from transforms.errors import DataError
from transforms.files import write_bytes

__all__ = ["complete", "put", "refresh", "remove"]

_TRIES = 30
_seen: dict[Path, float] = {}
_FRESH_SECONDS = 1.0
"""So long a list of runs is believed, unless somebody needs to know for certain."""


def _key(run_id: str) -> str:
    return f"manifests/{run_id}.json"


def _entry(manifest: Mapping[str, Any], version: str) -> dict[str, Any]:
    groups = manifest.get("fingerprints")
    return {
        "version": version,
        "kind": manifest.get("kind"),
        "status": manifest.get("status"),
        "groups": groups if isinstance(groups, dict) else {},
    }


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def refresh(cache: Cache, *, certain: bool = True) -> None:
    """Have copies of all manifests as they are now. Without ``certain`` those of a moment ago will do."""
    if not certain and time.monotonic() - _seen.get(cache.folder, float("-inf")) < _FRESH_SECONDS:
        return
    with cache.index("manifests") as index:
        heads = {h.key.removeprefix("manifests/").removesuffix(".json"): h.version for h in cache.store.list("manifests/")}
        safe(cache, "manifests/", heads)
        heads = {run_id: version for run_id, version in heads.items() if "/" not in run_id}
        place = data_folder.runs(cache.folder)
        changed = [r for r, version in heads.items() if index.get(r, {}).get("version") != version or not (place / r / MANIFEST).exists()]
        found = cache.all(lambda run_id: cache.store.read(_key(run_id)), changed)
        for run_id, there in zip(changed, found, strict=True):
            if there is not None:
                write_bytes(place / run_id / MANIFEST, there.content)
                index[run_id] = _entry(_parsed(there.content), there.version)
        for run_id in index.keys() - heads.keys():
            (place / run_id / MANIFEST).unlink(missing_ok=True)
            del index[run_id]
    _seen[cache.folder] = time.monotonic()


def complete(cache: Cache, group: str, fingerprint: str | None) -> list[str]:
    """The complete batch runs that made rows of a group (with this graph, if one is named): their rows are to be read, no others."""
    refresh(cache, certain=False)
    runs = cache.look("manifests").items()
    return sorted(
        run_id
        for run_id, entry in runs
        if entry["kind"] == "batch" and entry["status"] == "complete" and group in entry["groups"]
        and (fingerprint is None or entry["groups"][group] == fingerprint)
    )  # fmt: skip


def remove(cache: Cache, run_id: str) -> None:
    """Delete a run's manifest; nobody finds the run any more. For who holds the runs, and has deleted what it made."""
    with cache.index("manifests") as index:
        cache.store.delete(_key(run_id))
        (data_folder.run(cache.folder, run_id) / MANIFEST).unlink(missing_ok=True)
        index.pop(run_id, None)


def put(cache: Cache, run_id: str, manifest: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Write a run's manifest: as it is in the store now, with ``changes`` (``manifest`` is the whole, for a run that is new).

    Returns what was written. Raises DataError where the run was completed by another process, or another run has its name.
    """
    with cache.index("manifests") as index:
        version = index.get(run_id, {}).get("version")
        wanted = dict(manifest)
        for _ in range(_TRIES):
            content = json.dumps(wanted, indent=2, default=str).encode() + b"\n"
            made = cache.store.create(_key(run_id), content) if version is None else cache.store.replace(_key(run_id), content, version)
            if made is not None:
                write_bytes(data_folder.run(cache.folder, run_id) / MANIFEST, content)
                index[run_id] = _entry(wanted, made)
                return _parsed(content)
            there = cache.store.read(_key(run_id))
            version = None if there is None else there.version
            if there is not None:
                wanted = _merged(cache, run_id, there, manifest, changes)
    raise DataError(f"{cache.url}: the manifest of run {run_id} changes faster than it can be written; run the same command again")


def _merged(cache: Cache, run_id: str, there: Versioned, manifest: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    said = _parsed(there.content)
    if said.get("key") != manifest.get("key"):
        raise DataError(f"{cache.url}: another run is called {run_id}; run the same command again")
    if said.get("status") == "complete" and "status" in changes:
        raise DataError(f"run {run_id} was completed by another process ({said.get('host')}) meanwhile; its rows are the ones that count")
    return {**said, **changes}
