"""Groups without a preprocessing_fn need no history: from a topic alone to served rows."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pipelines import workflow
from pipelines.reports.terminal import Steps
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.stream_world import events, make_stream_world
from transforms.errors import ConfigError, GraphError


def test_a_stream_without_any_batch_run(tmp_path: Path) -> None:
    """FAULTS 34: ``tandem apply`` makes the graphs that nothing is learnt for; no event file and no batch run is there."""
    world = make_stream_world(tmp_path / "world")
    shutil.rmtree(world.data)
    world.produce(events(300))
    options = StreamOptions(runner="direct", until="latest")
    with pytest.raises(GraphError, match="has no applied graph"):
        run_stream(world.repo(), options)
    workflow.apply(world.repo(), None, Steps())
    run_stream(world.repo(), options)
    world.assert_right()


def test_a_graph_that_is_learnt_needs_a_run(tmp_path: Path) -> None:
    world = make_stream_world(tmp_path / "world")
    features = world.path / "features.py"
    text = features.read_text()
    features.write_text(text.replace("aggregates=[", 'preprocessing_fn="words:zones", aggregates=[', 1))
    sys.modules.pop("features", None)
    with pytest.raises(ConfigError, match=r"there is no complete batch run, and the graph of .* is learnt from one; run 'tandem batch'"):
        workflow.apply(world.repo(), None, Steps())
