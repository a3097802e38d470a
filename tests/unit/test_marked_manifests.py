"""Which manifests an erasure marks: of what lost rows, and of what names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.forgetting.marked_manifests import mark_manifests
from pipelines.forgetting.subject import Subject
from pipelines.lake import layout

OWNER = "batch-20240504-abcdef12"


@pytest.mark.parametrize(
    ("named", "marked"),
    [
        (OWNER, True),
        (f"offline/zones/run={OWNER}/part-0.parquet", True),
        (f"made of {OWNER}, and more", True),
        (f"{OWNER}\n", True),
        (f"{OWNER}.parquet", True),
        (f"{OWNER}-2", False),
        (f"offline/zones/run={OWNER}-2/part-0.parquet", False),
        (f"{OWNER}3", False),
        (f"{OWNER}_b", False),
        (f"{OWNER}-2 and {OWNER}", True),
    ],
)
def test_what_names_a_run_whole_depends_on_it(tmp_path: Path, named: str, marked: bool) -> None:
    """Not what names another run, whose name begins with its name."""
    manifests = {OWNER: {}, f"{OWNER}-2": {}, "train-1": {"rows": [named]}, "evaluate-1": {"model": "train-1"}}
    for run, manifest in manifests.items():
        path = layout.run(tmp_path, run) / layout.MANIFEST
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(manifest))
    found = mark_manifests(tmp_path, Subject((("user", "u1"),)), [f"offline/zones/run={OWNER}/part-0.parquet"])
    wanted = [OWNER, *(["train-1", "evaluate-1"] if marked else [])]
    assert sorted(found) == sorted(f"runs/{run}/{layout.MANIFEST}" for run in wanted)
    assert {run for run in manifests if "erased" in (layout.run(tmp_path, run) / layout.MANIFEST).read_text()} == set(wanted)
