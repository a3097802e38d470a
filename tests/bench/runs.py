"""A list of ten thousand runs, as ``tandem runs`` and the watch make it: from the index, after a change, and without an index."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.lake import run_index
from pipelines.lake.runs import RunStore
from tests.bench.report import Part, best_of

COUNT = 10_000


def _history(data: Path, count: int) -> None:
    """Complete batch runs of an hour ago, with the parts that make a manifest large."""
    hour_ago = time.time() - 3600
    files = [{"file": f"events/departures/date=2013-01-{n:02}/part-0.parquet", "size": n, "sha256": "b" * 64} for n in range(31)]
    large: dict[str, Any] = {
        "code": {"files": {f"pipelines/part{n}.py": "a" * 16 for n in range(200)}},
        "inputs": {"departures": files},
        "settings": {f"key{n}": n for n in range(60)},
    }
    for n in range(count):
        folder = data / "runs" / f"batch-{n:06}"
        folder.mkdir(parents=True)
        head = {"format": 1, "id": folder.name, "kind": "batch", "status": "complete", "created": f"2024-01-01T{n:06}", "rows": {"a": n}}
        (folder / "manifest.json").write_text(json.dumps({**head, **large}))
        os.utime(folder / "manifest.json", (hour_ago, hour_ago))


def run(quick: bool = False) -> list[Part]:
    """One part; the quick size is the whole, as it is a number of runs that has to be listed in a fifth of a second."""
    count = COUNT
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        _history(data, count)
        store = RunStore(data)
        begun = time.perf_counter()
        assert len(store.runs()) == count
        anew = time.perf_counter() - begun
        index = (data / "runs" / run_index.NAME).stat().st_size
        seconds = best_of(5, {"index": store.runs})["index"]
    part = Part(
        f"listing {count:,} runs",
        "run",
        "warm: files in the page cache; wall time, five rounds",
        notes=[f"the index takes {index / 1e6:.1f} MB"],
    )
    part.add("from the index", seconds, count)
    part.add("every manifest read, index written", anew, count)
    return [part]
