"""What a stream that goes on from a batch run starts with: the run's last tiles, ``runs/<id>/tiles/<group>/shard-0000.parquet``.

They hold all events before the run's end that a window after it can reach, so a stream that folds them and then every event at or after the
end makes the rows that one batch over everything would.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import layout, shared
from pipelines.lake.graphs import since
from pipelines.lake.run_records import BatchRecord, record_of
from transforms.aggregates import merge, tile_schema
from transforms.definitions import FeatureGroup
from transforms.errors import DataError
from transforms.hashing import shard_of

__all__ = ["batch_run_end", "load_tiles", "run_here"]


def run_here(data: Path, run: str) -> Path:
    """The folder of a batch run on this machine, by its folder on the one where a stream began from it: another one, where the data folder
    is a cache of an object store. Then copies are made of what it left."""
    if not shared.is_shared(data):
        return Path(run)
    shared.have_manifests(data)
    shared.have_run(data, Path(run).name)
    return layout.run(data, Path(run).name)


def _record(run_folder: Path) -> BatchRecord:
    try:
        record = record_of({**json.loads((run_folder / layout.MANIFEST).read_text("utf-8")), "kind": BatchRecord.KIND})
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"run {run_folder.name}: its manifest cannot be read ({error}); 'tandem runs' lists the runs") from None
    if not isinstance(record, BatchRecord) or record.status != "complete" or not record.tiles:
        what = "kept no tiles to start from" if record.status == "complete" else f"is {record.status or None}, not complete"
        raise DataError(f"run {run_folder.name} {what}; run 'tandem batch' again and give that run")
    return record


def batch_run_end(run_folder: Path) -> int:
    """The end of the run in microseconds: its tiles hold the events before, the stream takes those at or after it."""
    return int(_record(run_folder).tiles["end_us"])


def load_tiles(run_folder: Path, group: FeatureGroup, shard: int, shards: int) -> pa.RecordBatch:
    """The tiles of shard ``shard`` of ``shards`` (the run may have had another number of them), merged: ``tile_schema(group)``.

    Raises DataError if the run is not complete, kept no tiles, or was made of another definition of the group.
    """
    record = _record(run_folder)
    if since(record.definitions.get(group.name), group) is None:
        raise DataError(
            f"feature group {group.name!r} is not as it was in run {run_folder.name}; run 'tandem batch' with the present definitions"
        )
    made = int(record.tiles["shards"])
    step = math.gcd(made, shards)  # a hash is in file (hash % made) and in shard (hash % shards)
    parts = []
    for number in range(shard % step, made, step):
        path = run_folder / "tiles" / group.name / f"shard-{number:04d}.parquet"
        if not path.is_file():
            continue
        table = pq.ParquetFile(path).read().combine_chunks()
        for batch in table.cast(tile_schema(group)).to_batches():
            mine = shard_of([batch.column(i) for i in range(len(group.entity.keys))], shards) == shard
            parts.append(batch.filter(pa.array(mine)))
    return merge(parts, group)
