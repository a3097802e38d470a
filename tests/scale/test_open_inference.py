"""Open Inference v2 as its own clients speak it: KServe's, Seldon's and Triton's, each in an environment of its own, against our server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.http_server import running
from tests.integration.serving_world import GOOD, PRINT, make_world, settings
from tests.scale.tools import python_tools

KSERVE = ("kserve==0.21.0",)
TRITON = ("tritonclient[http]==2.73.0",)
SELDON = ("mlserver==1.7.1", "httpx>=0.27")

OF_KSERVE = """
import asyncio, json, sys
import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.rest.v2_datamodels import (
    InferenceResponse, ModelMetadataResponse, ModelReadyResponse, ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse,
)
base = sys.argv[1]

async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    said = {"live": await client.is_server_live(base), "ready": await client.is_server_ready(base)}
    said["model"] = await client.is_model_ready(base, "delay")
    inputs = [
        InferInput("origin", [2], "BYTES", data=["JFK", "LGA"]),
        InferInput("tailnum", [2, 1], "BYTES", data=["N1", "N2"]),
        InferInput("distance", [2], "FP64", data=[100.0, 100.0]),
    ]
    answer = await client.infer(base, InferRequest("delay", inputs, request_id="mine"), model_name="delay")
    (output,) = answer.outputs
    said["answer"] = [answer.id, answer.model_name, answer.model_version, output.name, output.datatype, output.shape, output.data]
    said["features"] = json.loads(answer.parameters["features"])
    said["refused"] = {}
    for name, model, given in (
        ("no such model", "none", inputs), ("a missing input", "delay", inputs[:1]),
        ("another type", "delay", [InferInput("origin", [1], "INT64", data=[1]), *inputs[1:]]),
    ):
        try:
            await client.infer(base, InferRequest(model, given), model_name=model)
        except httpx.HTTPStatusError as error:
            said["refused"][name] = [error.response.status_code, error.response.json()["error"]]
    # The bodies, held against the protocol's own models.
    for path, kind in (("/v2/health/live", ServerLiveResponse), ("/v2/health/ready", ServerReadyResponse), ("/v2", ServerMetadataResponse),
                       ("/v2/models/delay", ModelMetadataResponse), ("/v2/models/delay/versions/1", ModelMetadataResponse),
                       ("/v2/models/delay/ready", ModelReadyResponse), ("/v2/models/delay/versions/1/ready", ModelReadyResponse)):
        kind.model_validate_json(httpx.get(base + path).content, strict=True)
    body = InferRequest("delay", inputs).to_rest()[0]
    InferenceResponse.model_validate_json(httpx.post(base + "/v2/models/delay/infer", json=body).content, strict=True)
    print(json.dumps(said))

asyncio.run(main())
"""

# Bodies of the server, held against Seldon's own models of the protocol.
OF_SELDON = """
import json, sys
import httpx
from mlserver.types import (
    InferenceErrorResponse, InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataServerResponse, RequestInput,
)
base = sys.argv[1]
texts = {name: RequestInput(name=name, shape=[2], datatype="BYTES", data=data) for name, data in
         (("origin", ["JFK", "LGA"]), ("tailnum", ["N1", "N2"]))}
numbers = RequestInput(name="distance", shape=[2], datatype="FP64", data=[100.0, 100.0])
request = InferenceRequest(id="mine", inputs=[*texts.values(), numbers])

def ask(path, body=None):
    answer = httpx.get(base + path) if body is None else httpx.post(base + path, json=body.model_dump(exclude_none=True))
    return answer.status_code, answer.content

MetadataServerResponse.model_validate_json(ask("/v2")[1])
metadata = MetadataModelResponse.model_validate_json(ask("/v2/models/delay")[1])
answer = InferenceResponse.model_validate_json(ask("/v2/models/delay/infer", request)[1])
status, refused = ask("/v2/models/delay/infer", InferenceRequest(inputs=[numbers]))
print(json.dumps({
    "inputs": [one.name for one in metadata.inputs], "id": answer.id, "data": list(answer.outputs[0].data),
    "refused": [status, InferenceErrorResponse.model_validate_json(refused).error],
}))
"""

OF_TRITON = """
import json, sys
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException
client = InferenceServerClient(sys.argv[1].removeprefix("http://"))
said = {"live": client.is_server_live(), "ready": client.is_server_ready(), "model": client.is_model_ready("delay", "1"),
        "server": client.get_server_metadata(), "metadata": client.get_model_metadata("delay")}

def tensors(binary):
    out = []
    for name, values in (("origin", [b"JFK", b"LGA"]), ("tailnum", [b"N1", b"N2"]), ("distance", [100.0, 100.0])):
        datatype = "FP64" if name == "distance" else "BYTES"
        array = np.array(values, dtype=np.object_ if datatype == "BYTES" else np.float64)
        out.append(InferInput(name, array.shape, datatype))
        out[-1].set_data_from_numpy(array, binary_data=binary)
    return out

answer = client.infer("delay", tensors(False), request_id="mine")
output = said["metadata"]["outputs"][0]["name"]
said["answer"] = [answer.get_response()["id"], str(answer.as_numpy(output).dtype), answer.as_numpy(output).tolist()]
same = client.infer("delay", tensors(False), model_version="1", outputs=[InferRequestedOutput(output, binary_data=False)])
said["same"] = same.as_numpy(output).tolist()
said["refused"] = {}
for name, ask in (
    ("binary", lambda: client.infer("delay", tensors(True))),
    ("no such output", lambda: client.infer("delay", tensors(False), outputs=[InferRequestedOutput("none", binary_data=False)])),
    ("no such version", lambda: client.infer("delay", tensors(False), model_version="77")),
):
    try:
        ask()
    except InferenceServerException as error:
        said["refused"][name] = [error.status(), error.message()]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("open")
    make_world(root, 1)
    with running(settings(root)) as (_, host, port):
        yield f"http://{host}:{port}"


def said(python: Path, code: str, server: str) -> dict[str, Any]:
    done = subprocess.run([python / "python", "-c", code, server], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def predictions(server: str) -> list[float]:
    rows = [GOOD, {**GOOD, "origin": "LGA", "tailnum": "N2"}]
    values: list[float] = httpx.post(f"{server}/v1/models/delay:predict", json={"instances": rows}).json()["predictions"]
    return values


def test_kserve_s_client(server: str) -> None:
    got = said(python_tools("kserve", KSERVE), OF_KSERVE, server)
    assert got["live"] is got["ready"] is got["model"] is True
    identity, model, version, _, datatype, shape, data = got["answer"]
    assert (identity, model, datatype, shape) == ("mine", "delay", "FP32", [2]) and data == predictions(server)
    assert version in (None, "1"), "0.21 of the client does not read it"
    assert got["features"]["origin_traffic"]["fingerprint"] == PRINT["origin_traffic"]
    assert {name: status for name, (status, _) in got["refused"].items()} == {
        "no such model": 404, "a missing input": 422, "another type": 422,
    }  # fmt: skip
    assert "should be 'BYTES'" in got["refused"]["another type"][1]


def test_triton_s_client(server: str) -> None:
    got = said(python_tools("triton", TRITON), OF_TRITON, server)
    assert got["live"] is got["ready"] is got["model"] is True and got["server"]["extensions"] == []
    assert got["answer"] == ["mine", "float32", pytest.approx(predictions(server))] and got["same"] == got["answer"][2]
    assert "binary_data=False" in got["refused"]["binary"][1] and got["refused"]["no such version"][0] == "404"
    assert "unknown output 'none'" in got["refused"]["no such output"][1]


def test_seldon_s_client(server: str, tmp_path: Path) -> None:
    bin_ = python_tools("seldon", SELDON)
    got = said(bin_, OF_SELDON, server)
    assert got["id"] == "mine" and got["data"] == predictions(server) and {"origin", "tailnum", "distance"} <= set(got["inputs"])
    assert got["refused"][0] == 422 and "origin" in got["refused"][1]

    # MLServer's own client of batches: requests of a file, several to a call, taken apart again.
    rows = [GOOD, {**GOOD, "origin": "LGA", "tailnum": "N2"}]
    kinds = {"origin": "BYTES", "tailnum": "BYTES", "distance": "FP64"}
    lines = [
        {"id": f"row-{n}", "inputs": [{"name": f, "shape": [1], "datatype": kind, "data": [row[f]]} for f, kind in kinds.items()]}
        for n, row in enumerate(rows)
    ]
    (tmp_path / "in").write_text("\n".join(map(json.dumps, lines)))
    words = ("infer", "--url", server.removeprefix("http://"), "--model-name", "delay", "--batch-size", "2", "--workers", "1")
    files = ("--input-data-path", tmp_path / "in", "--output-data-path", tmp_path / "out")
    done = subprocess.run([str(word) for word in (bin_ / "mlserver", *words, *files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    answers = {one["id"]: one["outputs"][0]["data"] for one in map(json.loads, (tmp_path / "out").read_text().splitlines())}
    assert [answers[f"row-{n}"] for n in range(2)] == [[pytest.approx(value)] for value in predictions(server)], answers
