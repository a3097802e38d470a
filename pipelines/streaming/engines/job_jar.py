"""A pipeline as Beam's Java runners take it from their class path: the layout of ``PortablePipelineJarUtils``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from google.protobuf import json_format

__all__ = ["write_job_jar"]


def write_job_jar(jar: Path, proto: Any, options: PipelineOptions, more: Mapping[str, Any] | None = None) -> Path:
    """Write the pipeline (a Beam ``Pipeline`` message) and its options, ``more`` over them; returns the jar."""
    values = options.get_all_options(retain_unknown_options=True, drop_default=True)
    values.pop("runner", None)  # Beam's Java side would look for a class of that name
    values |= more or {}
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("BEAM-PIPELINE/pipeline-manifest.json", json.dumps({"defaultJobName": "pipeline"}))
        out.writestr("BEAM-PIPELINE/pipeline/pipeline.json", json_format.MessageToJson(proto))
        written = json_format.MessageToJson(JobServiceHandle.encode_pipeline_options(values))
        out.writestr("BEAM-PIPELINE/pipeline/pipeline-options.json", written)
    return jar
