"""The Beam graph of the stream: the same functions as batch, in the order of the data's way."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.one_step import Gate, OneStep
from pipelines.streaming.stages.poll import Partitions, Poll
from pipelines.streaming.stages.sink import SinkRows
from pipelines.streaming.state.job_spec import JobSpec

__all__ = ["build"]


def build(pipeline: beam.Pipeline, spec: JobSpec, ticks: Any) -> None:
    """Wire the job. ``ticks`` is a PTransform whose elements drive the polls: endless ones, or a single one (``one_tick``).

    A job of one shard is one step; of several, polls send each shard its share.
    """
    if spec.stream.shards == 1:
        gate = beam.ParDo(Gate(spec)).with_output_types(tuple[int, int])
        _ = pipeline | "Ticks" >> ticks | "Gate" >> gate | "Poll, fold, sink" >> beam.ParDo(OneStep(spec))
        return
    _ = (
        pipeline
        | "Ticks" >> ticks
        | "Partitions" >> beam.ParDo(Partitions(spec)).with_output_types(tuple[str, int])
        | "Poll" >> beam.ParDo(Poll(spec)).with_output_types(tuple[int, bytes])
        | "Fold" >> beam.ParDo(FoldShard(spec)).with_output_types(FoldOutput)
        | "Sink" >> beam.ParDo(SinkRows(spec))
    )
