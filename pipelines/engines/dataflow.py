"""``tandem batch --runner dataflow``: jobs of Google's Dataflow, whose workers reach Google Cloud Storage and nothing of this machine.

Event files are named by URLs, and what workers make comes back by them (:mod:`pipelines.batch.work_place`). The code travels as a wheel
that needs what this installation needs, in the versions that it has: Beam's stock container installs it when a worker starts, and an image
that has these (``--sdk_container_image``, the target ``worker`` of our Dockerfile) starts at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.batch.batch_engine import BatchEngine
from pipelines.engines.job_wheel import write_wheel
from pipelines.lake.file_addresses import put_file
from pipelines.project.repository import Repo
from serving.object_store.cache import cache_of
from transforms.errors import ConfigError, DataError, TandemError
from transforms.functions.travel import code_travels

__all__ = ["DataflowEngine"]

_NEEDED = {"project": "the id of a Google Cloud project", "region": "where it runs, such as europe-west4"}
_MOST = 300


class DataflowEngine(BatchEngine):
    """See the module. ``args`` are Beam's. Raises ConfigError for data in another place, and for options that are missing."""

    name, elsewhere, has_code = "dataflow", True, True

    def __init__(self, repo: Repo, parallelism: int | None, args: Sequence[str]) -> None:
        cache = cache_of(repo.data)
        if cache is None or not cache.url.startswith("gs://"):
            raise ConfigError(
                "--runner dataflow: its workers cannot reach a folder of this machine, and data is"
                f" {repo.data if cache is None else cache.url}; put the data into Google Cloud Storage (data: gs://bucket/prefix),"
                " or use flink or spark"
            )
        given = {a.removeprefix("--").partition("=")[0] for a in args if a.startswith("--")}
        for name, what in _NEEDED.items():
            if name not in given:
                raise ConfigError(f"--runner dataflow needs --{name}, {what}; give it after --, as in -- --project=my-project --region=...")
        own = {"temp_location": f"{cache.url}/work/dataflow/tmp", "staging_location": f"{cache.url}/work/dataflow/staging"}
        if parallelism is not None:
            own["max_num_workers"] = str(parallelism)
        self.repo, self.url, self.count = repo, cache.url, 0
        self.args = [*args, *(f"--{key}={value}" for key, value in own.items() if key not in given)]
        self.template = next((a.partition("=")[2] for a in args if a.startswith("--template_location=")), "")

    @contextmanager
    def pipeline(self, folder: Path) -> Iterator[Any]:
        """A job, which is waited for when the block ends. With ``--template_location`` it is described there, and nothing is run."""
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        try:
            from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
        except ImportError:
            raise ConfigError("--runner dataflow needs Beam's part for Google Cloud; pip install 'apache-beam[gcp]'") from None
        self.count += 1
        wheel = write_wheel(folder / "engine", self.repo.path, self.repo.data)
        address = f"{self.url}/work/dataflow/{wheel.name}"  # the description names where it is taken from, too
        put_file(address, wheel)
        name = re.sub("[^a-z0-9-]", "-", f"tandem-{folder.name}-{self.count}".lower())
        options = PipelineOptions([f"--job_name={name}", f"--extra_package={address}", *self.args], save_main_session=False)
        try:
            with code_travels(), beam.Pipeline(runner=DataflowRunner(), options=options) as pipeline:
                yield pipeline
        except TandemError:
            raise
        except Exception as error:
            line = " ".join(str(error).split()).removeprefix("Pipeline has validations errors: ")[:_MOST]
            raise DataError(f"the batch job failed on Dataflow: {line or type(error).__name__}") from error
        if self.template:
            raise DataError(f"the job is described in {self.template}, and nothing was run; leave --template_location out to run it")
