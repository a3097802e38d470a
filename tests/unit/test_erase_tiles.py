"""A subject that tiles of other entities keep: in the files of a batch run, as in those that a stream saves."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting.subject import Subject, holds, without_rows
from transforms.aggregates import tile
from transforms.contract import check_json
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, Last, LastN, TopK, days, hours, minutes

SOURCE = EventSource(
    "rides",
    [Field("ride", "string", required=True), Field("zone", "string", required=True), Field("rider", "string"), Field("n", "int64")],
    "at", "ride",
)  # fmt: skip
GROUP = FeatureGroup(
    name="zones", source=SOURCE, entity=Entity("zone"), hop=minutes(5), ttl=days(9),
    aggregates=[Count(over=hours(1)), Last("rider", over=hours(1)), LastN("rider", n=2, over=hours(1)), TopK("rider", k=2, over=hours(1)),
                Last("n", over=hours(1))],
)  # fmt: skip


def tiles(path: Path, rider: str) -> None:
    """Five zones; the rider was in the first and in the third."""
    rides = [(n % 5, rider if n in (0, 2) else "somebody else") for n in range(10)]
    records = [
        json.dumps({"ride": f"r{n}", "zone": f"z{zone}", "rider": who, "n": n, "at": 10**15 + n}).encode()
        for n, (zone, who) in enumerate(rides)
    ]
    pq.write_table(pa.Table.from_batches([tile(check_json(records, SOURCE, 2 * 10**15, 0).valid, GROUP)]), path)


@pytest.mark.parametrize("rider", ["rider-to-be-forgotten", 'rider "ü", forgotten'])
def test_tiles_of_a_batch_run_that_keep_the_subject_go(tmp_path: Path, rider: str) -> None:
    """Issue 13, section 3: only the stream's went; a batch run's were named as what still holds it."""
    path, subject = tmp_path / "shard-0000.parquet", Subject.parse([f"rider={rider}"])
    tiles(path, rider)
    assert holds(path, subject)
    gone: list[str] = []
    assert without_rows(path, subject, gone=lambda rows: gone.extend(rows["zone"].to_pylist())) == 2
    assert gone == ["z0", "z2"] and not holds(path, subject)
    assert pq.read_table(path)["zone"].to_pylist() == ["z1", "z3", "z4"]


def test_numbers_of_others_that_are_equal_by_chance_stay(tmp_path: Path) -> None:
    path = tmp_path / "shard-0000.parquet"
    tiles(path, "a")
    assert without_rows(path, Subject.parse(["rider=5"])) == 0
    assert without_rows(path, Subject.parse(["zone=z3"])) == 1
