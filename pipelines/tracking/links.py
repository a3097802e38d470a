"""The ways back: from a run's manifest, and from ML Metadata, to the trackers' runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from transforms.locks import try_lock

__all__ = ["link_later", "link_manifest", "link_mlmd", "links_left"]


def link_later(data: Path, run: str, links: Mapping[str, str]) -> None:
    """Keep links for a manifest whose run is still held: its job takes them if it waits, else the deliverer when it is let go."""
    file = layout.tracking(data) / "links" / f"{run}.json"
    write_json(file, {**links_left(data, run), **links})


def links_left(data: Path, run: str, take: bool = False) -> dict[str, str]:
    """The links kept for a run; with ``take`` they are kept no longer."""
    file = layout.tracking(data) / "links" / f"{run}.json"
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        found = {}
    if take:
        file.unlink(missing_ok=True)
    return dict(found)


def link_manifest(folder: Path, links: Mapping[str, str]) -> bool:
    """Add to the links of a manifest, unless a process makes the run right now; whether it was done."""
    file = folder / layout.MANIFEST
    with try_lock(folder / ".lock") as mine:
        if not mine:
            return False
        manifest = json.loads(file.read_text())
        known = dict(manifest.get("links") or {})
        if {**known, **links} != known:
            write_json(file, {**manifest, "links": {**known, **links}})
    return True


def link_mlmd(data: Path, known: Mapping[str, Any], links: Mapping[str, str]) -> None:
    """Write ``links`` as custom properties of the training's pipeline run in ML Metadata (SQLite waits while others write)."""
    name, store = str(known.get("mlmd_run") or ""), data / str(known.get("mlmd_store") or layout.mlmd(data).relative_to(data))
    if not name or not store.is_file():
        return
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2

    config: Any = vars(metadata_store_pb2)["ConnectionConfig"]()
    config.sqlite.filename_uri = str(store)
    config.sqlite.connection_mode = 2  # READWRITE: never make one
    mlmd = metadata_store.MetadataStore(config)
    context = mlmd.get_context_by_type_and_name("pipeline_run", name)
    if context is None:
        return
    wanted = {key: value for key, value in links.items() if context.custom_properties[key].string_value != value}
    for key, value in wanted.items():
        context.custom_properties[key].string_value = value
    if wanted:
        mlmd.put_contexts([context])
