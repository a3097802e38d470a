"""A runner's SDK worker, started by the runner as a process of its own (Beam's PROCESS environment): ``tandem-worker --id=1-1 ...``.

Each machine of a cluster starts its own: nothing listens, nothing is shared. The worker asks the runner for the code of the job
(:mod:`pipelines.lake.staged_code`), unpacks it once per machine, and becomes Beam's worker with that code before all other.
What it says goes to the runner's log, and before it has one to the file that ``TANDEM_WORKER_LOG`` names.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, beam_runner_api_pb2, endpoints_pb2
from google.protobuf import json_format, text_format

from pipelines.lake.private import socket_folder
from pipelines.lake.processes import become
from pipelines.lake.staged_code import EMBEDDED, REPO, STAGED, unpack
from transforms.own_program import module_command
from transforms.tensorflow_settings import SETTINGS

__all__ = ["environment_of", "main"]

_SECONDS = 60.0
_MOST = 64 << 20


def environment_of(
    info: beam_provision_api_pb2.ProvisionInfo, worker: str, control: str, logging: str, code: Path | None, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables by which Beam's worker is told what it is for; ``code``: the folder of unpacked code."""
    before = [str(code), str(code / REPO)] if code is not None else []
    path = os.pathsep.join([*before, *filter(None, [inherited.get("PYTHONPATH", "")])])
    return {
        **SETTINGS,
        **inherited,
        **({STAGED: str(code / REPO)} if code is not None else {}),
        "PYTHONPATH": path,
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=control)),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=logging)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the worker that a runner asked for."""
    parser = argparse.ArgumentParser(prog="tandem-worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("id", "provision_endpoint"):
        parser.add_argument(f"--{name}", required=True, help="given by the runner")
    for name in ("control_endpoint", "logging_endpoint", "artifact_endpoint"):
        parser.add_argument(f"--{name}", default="", help="given by the runner")
    given, _ = parser.parse_known_args(arguments)
    if log := os.environ.get("TANDEM_WORKER_LOG"):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    options = [("grpc.max_receive_message_length", _MOST)]
    with grpc.insecure_channel(given.provision_endpoint, options=options) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, timeout=_SECONDS, metadata=[("worker_id", given.id)], wait_for_ready=True).info
    archive = next((a.type_payload for a in info.dependencies if a.type_urn == EMBEDDED), None)
    code = None
    if archive is not None:
        folder = socket_folder(Path(tempfile.gettempdir()) / "tandem-code")  # this user's alone: it is code that runs
        code = unpack(beam_runner_api_pb2.EmbeddedFilePayload.FromString(archive).data, folder)
    control = given.control_endpoint or info.control_endpoint.url
    logging = given.logging_endpoint or info.logging_endpoint.url
    os.environ.update(environment_of(info, given.id, control, logging, code, os.environ))
    worker = "pipelines.engines.worker_process"
    become(module_command(worker, home=code) if code is not None else module_command(worker))  # the Tandem that came with the job


if __name__ == "__main__":
    main()
