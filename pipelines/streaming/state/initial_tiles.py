"""What a stream that goes on from a batch run starts with: the run's last tiles, ``runs/<id>/tiles/<group>/shard-0000.parquet``.

They hold all events before the run's end that a window after it can reach, so a stream that folds them and then every event at or after the
end makes the rows that one batch over everything would.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import layout
from transforms.aggregates import merge, tile_schema
from transforms.definitions import FeatureGroup
from transforms.errors import DataError
from transforms.hashing import shard_of

__all__ = ["load_tiles", "batch_run_end"]


def _manifest(run_folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((run_folder / layout.MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"run {run_folder.name}: its manifest cannot be read ({error}); 'tandem runs' lists the runs") from None
    if manifest.get("status") != "complete" or "tiles" not in manifest:
        what = "kept no tiles to start from" if manifest.get("status") == "complete" else f"is {manifest.get('status')}, not complete"
        raise DataError(f"run {run_folder.name} {what}; run 'tandem batch' again and give that run")
    return manifest


def batch_run_end(run_folder: Path) -> int:
    """The end of the run in microseconds: its tiles hold the events before, the stream takes those at or after it."""
    return int(_manifest(run_folder)["tiles"]["end_us"])


def load_tiles(run_folder: Path, group: FeatureGroup, shard: int, shards: int) -> pa.RecordBatch:
    """The tiles of shard ``shard`` of ``shards`` (the run may have had another number of them), merged: ``tile_schema(group)``.

    Raises DataError if the run is not complete, kept no tiles, or was made of another definition of the group.
    """
    manifest = _manifest(run_folder)
    if manifest["definitions"].get(group.name) != json.loads(json.dumps(group.canonical())):
        raise DataError(
            f"feature group {group.name!r} is not as it was in run {run_folder.name}; run 'tandem batch' with the present definitions"
        )
    made = int(manifest["tiles"]["shards"])
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
