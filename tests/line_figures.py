"""What a small batch of real flights gives, as figures that fit in a file: the same on both lines of packages, or the difference shows.

The file beside this one was written on the older line. Anew, after a change of what the features mean: ``python -m tests.line_figures``.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.flights import World, make_logs, make_world, offline_rows
from transforms.definitions import CREATED, FINGERPRINT

FILE = Path(__file__).with_suffix(".json")
SAMPLES = 12
"""Values kept of each transformed column, evenly spread: what there is to compare once the hashes differ."""


def exact(value: Any) -> Any:
    """A value as text that tells every bit of it."""
    return [exact(v) for v in value] if isinstance(value, list) else value.hex() if isinstance(value, float) else repr(value)


def hashed(columns: Sequence[tuple[str, list[Any]]]) -> str:
    """One hash of whole columns, whatever Arrow's layout of them is."""
    return hashlib.sha256(json.dumps([[name, exact(values)] for name, values in columns]).encode()).hexdigest()


def figures(world: World, run: Any) -> dict[str, Any]:
    """Per group: the graph's fingerprint, the number of rows, one hash of all aggregates and one hash per transformed column."""
    out = {}
    for name, group in world.repo().groups.items():
        table = offline_rows(world.data, group, run.id)
        own = group.row_schema.names
        transformed = {c: table[c].to_pylist() for c in table.schema.names if c not in (*own, FINGERPRINT, CREATED)}
        step = max(1, table.num_rows // SAMPLES)
        out[name] = {
            "graph": run.manifest["fingerprints"][name],
            "rows": table.num_rows,
            "aggregates": hashed([(c, table[c].to_pylist()) for c in own]),
            "transformed": {c: {"sha256": hashed([(c, v)]), "some": v[::step][:SAMPLES]} for c, v in transformed.items()},
        }
    return out


def extent(have: dict[str, Any], want: dict[str, Any]) -> dict[str, float]:
    """Per transformed column of a group that differs: the largest relative difference of the values kept (infinite: not of one shape)."""
    out = {}
    for column in sorted({*have, *want}):
        a, b = have.get(column), want.get(column)
        if a is None or b is None:
            out[column] = math.inf
        elif a["sha256"] != b["sha256"]:
            out[column] = max(map(_apart, a["some"], b["some"]), default=math.inf)
    return out


def _apart(a: Any, b: Any) -> float:
    if a == b:
        return 0.0
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) / max(abs(a), abs(b))
    return math.inf


def main() -> None:
    """Make the batch and write its figures."""
    with tempfile.TemporaryDirectory() as folder:
        make_logs(Path(folder) / "logs")
        world = make_world(Path(folder) / "world", Path(folder) / "logs", light=False)
        FILE.write_text(json.dumps(figures(world, world.run().run), indent=1) + "\n")
    print(f"written to {FILE}; see what changed: git diff {FILE.name}")


if __name__ == "__main__":
    main()
