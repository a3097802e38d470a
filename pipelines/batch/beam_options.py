"""Beam's options, and the runner that we mean by "direct"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.beam_speed import describe_quickly
from transforms.errors import ConfigError

__all__ = ["DIRECT", "BeamEngine", "direct_by_default", "in_this_process", "options"]

DIRECT = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""The in-process runner by its class. Newer SDKs try another engine first under the name DirectRunner (Prism, a program that they load from
the network), open a port on all addresses for it, and fall back to this one where it does not start."""

describe_quickly()  # whoever builds a pipeline of ours comes by here


def options(runner: str = "direct", extra: Sequence[str] = ()) -> PipelineOptions:
    """Options of a job: ``runner`` is Beam's name of one, or ``direct``; ``extra`` are flags as on a command line."""
    name = DIRECT if runner.lower() in ("direct", "directrunner") else runner
    return PipelineOptions([f"--runner={name}", *extra], save_main_session=False)


class BeamEngine(BatchEngine):
    """A runner by Beam's name of it, with flags as on a command line."""

    def __init__(self, name: str = "DirectRunner", args: Sequence[str] = ()) -> None:
        self.name, self.options = name, options(name, args)
        mine = self.options.view_as(StandardOptions).runner == DIRECT
        self.has_code = mine and not in_this_process(self.options)  # of other runners nobody knows

    def ready(self) -> None:
        """See :class:`BatchEngine`."""
        runner = self.options.view_as(StandardOptions).runner
        try:
            if runner != DIRECT:
                create_runner(runner)
        except (ValueError, ImportError, AttributeError) as error:
            why = f" ({error})" if isinstance(error, ImportError) else ""
            raise ConfigError(
                f"--runner {self.name}: Beam has no such runner{why}; write direct, flink, spark or dataflow, or Beam's name of"
                " another one, such as PortableRunner"
            ) from None

    @property
    def alone(self) -> bool:
        """See :class:`BatchEngine`."""
        return in_this_process(self.options) and not self.elsewhere

    def pipeline(self, folder: Path) -> AbstractContextManager[beam.Pipeline]:
        """See :class:`BatchEngine`."""
        return beam.Pipeline(options=self.options)


def in_this_process(asked: PipelineOptions | None) -> bool:
    """Whether a pipeline with these options (None: :func:`options`) would run in this process, on one worker."""
    if asked is None:
        return True
    return bool(asked.view_as(StandardOptions).runner == DIRECT and asked.view_as(DirectOptions).direct_num_workers == 1)


@contextmanager
def direct_by_default() -> Iterator[None]:
    """Within it, a library's own pipelines that name no runner take ours."""
    before = StandardOptions.DEFAULT_RUNNER
    StandardOptions.DEFAULT_RUNNER = DIRECT
    try:
        yield
    finally:
        StandardOptions.DEFAULT_RUNNER = before
