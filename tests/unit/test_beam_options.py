"""What runs in process opens no port (SECURITY C1), whoever makes the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext

import apache_beam as beam
import pytest

from pipelines.batch.beam_options import direct_by_default, options
from tests.listening import listeners

HEARD: list[object] = []


def listen(x: int) -> int:
    HEARD.extend(listeners([os.getpid()]))
    return x


@pytest.mark.parametrize(("within", "made"), [(nullcontext, lambda: beam.Pipeline(options=options())), (direct_by_default, beam.Pipeline)])
def test_a_job_in_process_opens_no_port(within: Callable[[], object], made: Callable[[], beam.Pipeline]) -> None:
    HEARD.clear()
    before = listeners([os.getpid()])
    with within(), made() as pipeline:  # type: ignore[attr-defined]
        _ = pipeline | beam.Create([1, 2, 3]) | beam.Map(listen)
    assert set(HEARD) == set(before) == set(listeners([os.getpid()]))
    assert len(HEARD) == 3 * len(before)


def test_the_default_is_as_it_was_afterwards() -> None:
    from apache_beam.options.pipeline_options import StandardOptions

    before = StandardOptions.DEFAULT_RUNNER
    with direct_by_default():
        assert before != StandardOptions.DEFAULT_RUNNER
    assert before == StandardOptions.DEFAULT_RUNNER
