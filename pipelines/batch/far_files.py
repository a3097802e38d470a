"""Event files that the driver of a run does not read: where they are many bytes, and the engine's workers are on other machines, these hash
them, each on its way from the disks or the bucket that all see, and of an object store no copies are made here.

A file's hash is the same whoever makes it, and so is the key of the run.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
from apache_beam.transforms.combiners import ToList

from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.continued import Continued, looked_through_from
from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.lake.file_addresses import clear, opening, reading, unchanged, url_of, writing
from pipelines.sources.archived_files import covered
from pipelines.sources.event_files import EventFile, Inventory, PassedOver, inventory
from pipelines.sources.file_records import partitions_of
from pipelines.sources.log_names import HIDDEN, day_in, enters, in_range, is_hidden, why_not
from pipelines.sources.recorded_files import recorded, untouched
from serving.object_store.cache import cache_of
from serving.object_store.connecting import is_url
from serving.object_store.object_store import ObjectStore
from serving.object_store.single_files import check_shared
from transforms.definitions import EventSource
from transforms.errors import DataError

__all__ = ["far_files", "hashed", "stored_files"]

BY_WORKERS = 32 << 30
"""So many bytes pass a driver's network in half a minute, which is what a cluster needs to begin a job."""
_PIECE = 4 << 20


def far_files(
    data: Path,
    sources: Mapping[str, EventSource],
    begin: Mapping[str, int],
    end: int,
    engine: BatchEngine,
    before: Continued | None = None,
) -> dict[str, Inventory] | None:
    """What lies in the folders of sources, as :func:`pipelines.sources.event_files.inventory` tells it, hashed by the workers of an engine;
    None where the driver is to do it: workers are on this machine, or it would read less than :data:`BY_WORKERS` bytes. ``begin`` by
    source and ``end``: microseconds. Of the run ``before``, which is gone on with, the hashes of files that nobody touched are taken, of
    objects none. Raises DataError where a folder is not there, for a file that is in the cache alone, and for an object that is changed
    meanwhile."""
    if not engine.elsewhere:
        return None
    found, weight = dict[str, Inventory](), 0
    if before is not None:
        begin = {name: looked_through_from(before.record, source, begin[name]) for name, source in sources.items()}
    for name, source in sources.items():
        cache = cache_of(data) if source.table is None and source.files else None  # the snapshot of a table was made here
        if cache is not None:
            found[name] = stored_files(cache.store, cache.url, source, begin[name], end)
        else:
            known = recorded([before.record], name) if before is not None else {}
            listed = inventory(data, source, begin[name], end, hashes=source.table is not None)
            found[name] = replace(listed, files=[replace(f, sha256=f.sha256 or untouched(f, known)) for f in listed.files])
        weight += sum(f.size for f in found[name].files if not f.sha256)
    if weight < BY_WORKERS:
        return None
    for name, source in sources.items():
        if source.table is None and source.files and (cache := cache_of(data)) is not None:
            check_shared(cache, source.files, lambda file, first=begin[name]: in_range(file, first, end))  # type: ignore[misc]
    waiting = {f.name: f for each in found.values() for f in each.files if not f.sha256}
    digests = _digests(data, list(waiting.values()), engine) if waiting else {}
    return {n: replace(each, files=[replace(f, sha256=f.sha256 or digests[f.name]) for f in each.files]) for n, each in found.items()}


def stored_files(store: ObjectStore, url: str, source: EventSource, start_us: int, end_us: int) -> Inventory:
    """As :func:`pipelines.sources.event_files.inventory`, of the objects below the data folder's ``url``, by their names alone: nothing is
    copied, nothing hashed, and paths are URLs. Raises DataError where there are none."""
    top = f"{source.files.strip('/')}/"
    heads = [h for h in store.list(top) if not h.key.endswith("/")]
    if not heads:
        raise DataError(f"source {source.name!r}: there is nothing below {url}/{top}; put its events there, or correct files= or data:")
    names = defaultdict[str, list[str]](list)
    for head in heads:
        folder, _, name = head.key.rpartition("/")
        names[folder].append(name)
    merged = {folder: covered(each) for folder, each in names.items()}
    files, passed = [], dict[str, str]()
    for head in heads:
        folder, _, name = head.key.rpartition("/")
        below = folder.removeprefix(top.removesuffix("/")).strip("/")
        folders = tuple(below.split("/")) if below else ()
        out = next((i for i, f in enumerate(folders) if is_hidden(f) or not enters(f, start_us, end_us)), None)
        if out is not None:  # nobody looks into it
            if is_hidden(folders[out]):
                passed[f"{top}{'/'.join(folders[: out + 1])}/"] = HIDDEN
        elif (why := why_not(name, merged[folder], source)) is None:
            day, said = day_in(head.key.split("/")[:-1]), partitions_of(folders)
            files.append(EventFile(f"{url}/{head.key}", head.key, head.size, "", day, said, head.version))
        elif why:
            passed[head.key] = why
    return Inventory(sorted(files, key=lambda f: f.name), [PassedOver(name, why) for name, why in sorted(passed.items())])


def hashed(file: EventFile) -> tuple[str, str]:
    """A file's name, and the SHA-256 of its first ``size`` bytes, read a piece at a time. Raises DataError for an object that is of another
    version."""
    digest, left = hashlib.sha256(), file.size
    with unchanged(file.path, file.version if is_url(file.path) else ""), opening(file.path, file.size) as found:
        while left > 0 and (piece := found.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return file.name, digest.hexdigest()


def _digests(data: Path, files: list[EventFile], engine: BatchEngine) -> dict[str, str]:
    """Name -> hash, by one pipeline."""
    layout.runs(data).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hash-", dir=layout.runs(data)) as text:
        folder, url = Path(text), url_of(data)
        top = text if url is None else f"{url}/work/{folder.name}"
        try:
            with engine.pipeline(folder) as pipeline:
                _ = (
                    pipeline
                    | "Files to hash" >> beam.Create(files)
                    | "Spread files" >> beam.Reshuffle()
                    | "Hash" >> beam.Map(hashed)
                    | "Hashes in one" >> ToList()
                    | "Write hashes" >> beam.Map(_write, f"{top}/hashes.json")
                )
            with reading(f"{top}/hashes.json") as made:
                found: dict[str, str] = json.loads(made.read_text())
        finally:
            if url is not None:
                clear(top)
    return found


def _write(hashes: list[tuple[str, str]], path: str) -> None:
    with writing(path) as local:
        write_json(local, dict(sorted(hashes)))
