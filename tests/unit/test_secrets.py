"""Secrets: where they may come from, and that their value is in nothing that is printed, kept, or handed to another process."""

from __future__ import annotations

import bz2
import pickle
import subprocess
import sys
import zlib
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.lake import provenance
from pipelines.lake.private import sounds_secret, without_secrets
from pipelines.project.config import Settings, load_settings
from pipelines.project.secrets import Secret, masked, secret_fields
from pipelines.project.settings_errors import mistake
from serving.settings import ServingSettings
from transforms.errors import ConfigError

PLANTED = "pl4nted-Secret-Of-The-Test"
ROOT = Path(__file__).resolve().parents[2]
SASL = "kafka: {bootstrap_servers: 'b:1', security_protocol: SASL_SSL, sasl_mechanism: PLAIN, sasl_username: me}\n"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "tandem.yaml").write_text(SASL)
    return folder


def password(repo: Path) -> str | None:
    found = load_settings(repo).kafka.sasl_password
    return None if found is None else found.get_secret_value()


def test_a_secret_comes_from_the_first_place_that_has_it(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M3: environment, a file that it names, the secrets folder, tandem.yaml."""
    assert password(repo) is None
    (repo / "tandem.yaml").write_text(SASL.replace("me}", "me, sasl_password: of the yaml}"))
    assert password(repo) == "of the yaml"
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("TANDEM_SECRETS_DIR", str(folder))
    (folder / "tandem_kafka__sasl_password").write_text("with the prefix\n")
    assert password(repo) == "with the prefix"
    (folder / "kafka__sasl_password").write_text("of the folder\n")
    assert password(repo) == "of the folder"
    (tmp_path / "file").write_text("of the file\n")
    monkeypatch.setenv("TANDEM_KAFKA__SASL_PASSWORD_FILE", str(tmp_path / "file"))
    assert password(repo) == "of the file"
    monkeypatch.setenv("TANDEM_KAFKA__SASL_PASSWORD", "of the environment")
    assert password(repo) == "of the environment"


def test_a_secret_file_that_is_not_there_is_one_line(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KAFKA__SASL_PASSWORD_FILE", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"TANDEM_KAFKA__SASL_PASSWORD_FILE: .*gone cannot be read \(No such file"):
        load_settings(repo)
    monkeypatch.delenv("TANDEM_KAFKA__SASL_PASSWORD_FILE")
    monkeypatch.setenv("TANDEM_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"TANDEM_SECRETS_DIR: .*nowhere is not a folder"):
        load_settings(repo)


@pytest.mark.parametrize(
    "text",
    [
        f"kafka: {{sasl_pasword: {PLANTED}}}\n",
        f"kafka: {{sasl_password: [{PLANTED}]}}\n",
        f"kafka: {{sasl_password: {{x: {PLANTED}}}}}\n",
        f"kafka: {PLANTED}\n",
        f"kafka: [{PLANTED}]\n",
        f"sasl_password: {PLANTED}\n",
        f"kafka: {{schema_registry_password: [{PLANTED}]}}\n",
        f"kafka: {{anything_at_all: {PLANTED}}}\n",
        f"alerts: {{secret: [{PLANTED}]}}\n",
        f"alerts: {{webhok: 'https://hooks/{PLANTED}'}}\n",
        f"alerts: {{options: [{PLANTED}]}}\n",
        f"tracking: {{retry_seconds: 'http://u:{PLANTED}@h'}}\n",
        f"batch: {{shards: 'password={PLANTED}'}}\n",
        f"kafka: {{sasl_password: {PLANTED}\n",
        f"kafka: {{bootstrap_servers: ['user:{PLANTED}@h']}}\n",
        *(f"{s}: {{slac_tokn: {PLANTED}}}\n" for s in ("batch", "stream", "tracking", "access", "watch", "monitor", "demo")),
        *(f"{s}: {PLANTED}\n" for s in ("batch", "stream", "access", "watch", "monitor", "demo", "serve")),
        *(f"{s}: [{PLANTED}]\n" for s in ("batch", "stream", "access", "watch", "monitor", "demo", "serve")),
    ],
)
def test_no_error_shows_a_secret(repo: Path, text: str) -> None:
    """SECURITY M3: nor a value that stands where a secret may stand, or under a key that may be a secret's, mistyped."""
    (repo / "tandem.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(repo)
    assert PLANTED not in str(error.value) and "\n" not in str(error.value) and "tandem.yaml" in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"slac_tokn": PLANTED},
        {"oidc": {"issuer": "https://i", "audience": "a", "client_secret": PLANTED}},
        {"oidc": PLANTED},
        {"tls_key": [PLANTED]},
        {"limits": {"tokn": PLANTED}},
        {"principal_limits": {"bob": {"tokn": PLANTED}}},
        {"grants": PLANTED},
        {"grants": {"bob": PLANTED}},
    ],
)
def test_no_error_of_a_servers_settings_shows_one(given: dict[str, Any]) -> None:
    """SECURITY M3: ``serve:`` printed whatever stood under a key that it does not know."""
    with pytest.raises(ValidationError) as error:
        ServingSettings(feature_repo=Path("r"), models=Path("m"), graphs=Path("g"), **given)
    assert PLANTED not in mistake(ServingSettings, error.value)


def test_settings_are_printed_and_dumped_without_secrets(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M3."""
    assert len(secret_fields(Settings)) >= 4
    for path in secret_fields(Settings):
        monkeypatch.setenv("TANDEM_" + "__".join(path).upper(), PLANTED)
    settings = load_settings(repo)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert PLANTED not in shown


CHILD = """
import pickle, sys
print(pickle.loads(sys.stdin.buffer.read()).connection()["sasl_plain_password"])
"""


def test_what_workers_are_given_names_the_secret_and_does_not_hold_it(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY C1: a secret is pickled as a reference, and read where it is needed."""
    from pipelines.sources.broker import open_broker

    monkeypatch.setenv("TANDEM_KAFKA__SASL_PASSWORD", PLANTED)
    kafka = load_settings(repo).kafka
    broker = open_broker(kafka, repo)
    data = pickle.dumps((broker, kafka))
    assert PLANTED.encode() not in data and PLANTED not in repr(broker)
    here, again = pickle.loads(data)
    assert here.connection()["sasl_plain_password"] == PLANTED == again.sasl_password.get_secret_value()
    for change, said in (("other", "other"), ("", "kafka.sasl_password is a secret that is not set in this process")):
        monkeypatch.setenv("TANDEM_KAFKA__SASL_PASSWORD", change) if change else monkeypatch.delenv("TANDEM_KAFKA__SASL_PASSWORD")
        words = [sys.executable, "-W", "ignore", "-c", CHILD]
        done = subprocess.run(words, input=pickle.dumps(broker), capture_output=True, cwd=ROOT, timeout=120)
        assert said in (done.stdout + done.stderr).decode()
    with pytest.raises(TypeError, match="cannot leave its process"):
        pickle.dumps(Secret(PLANTED))


def test_a_jobs_description_holds_no_secret(repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SECURITY C1: neither the DoFns of the pipeline's proto, unpacked, nor its options."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.portable_runner import PortableRunner

    from pipelines.sources.broker import open_broker
    from pipelines.streaming.stages.stream_graph import build
    from pipelines.streaming.state.job_spec import JobSpec

    for path in secret_fields(Settings):
        monkeypatch.setenv("TANDEM_" + "__".join(path).upper(), PLANTED)
    settings = load_settings(repo)
    broker = open_broker(settings.kafka, tmp_path)
    spec = JobSpec(repo, tmp_path, tmp_path, {}, {}, settings.kafka, settings.stream, broker)
    options = PipelineOptions(["--runner=PortableRunner", "--environment_type=LOOPBACK", "--streaming"])
    pipeline = beam.Pipeline(options=options)
    build(pipeline, spec, beam.Impulse())
    proto = PortableRunner.get_proto_pipeline(pipeline, options)
    seen = [proto.SerializeToString()]
    for transform in proto.components.transforms.values():
        if transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload).do_fn.payload
            seen.append(unpacked(payload))
    assert len(seen) > 4 and any(b"JobSpec" in each for each in seen), "the scan sees through Beam's packing"
    assert not any(PLANTED.encode() in each for each in seen)


def test_what_a_tracker_s_library_says_is_kept_without_the_password_of_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M3: MLflow's errors repeat the address; they were in the log of what could not be sent, and told by the next command. So was
    the note for a run within ``mlflow run``."""
    from pipelines.project.config import TrackingSettings
    from pipelines.tracking.mlflow import MlflowTracker
    from pipelines.tracking.outbox import Note, Outbox
    from pipelines.tracking.sync import _Deliverer

    uri, said = f"http://user:{PLANTED}@127.0.0.1:9", list[str]()
    error = RuntimeError(f"API request to {uri}/api/2.0/mlflow/x failed with exception\nPool(host='127.0.0.1')")
    deliverer = _Deliverer(tmp_path, TrackingSettings(trackers=["mlflow"], uri=uri), uri, said.append)
    note = Note("mlflow", "batch-1", 0, {})
    monkeypatch.setattr(deliverer.outbox, "notes", lambda: [note])
    monkeypatch.setattr(deliverer, "_send", lambda note: (_ for _ in ()).throw(error))
    assert "could not be sent batch-1 (RuntimeError: API request to http://***@127.0.0.1:9/api" in deliverer.work(0.0)["mlflow"]
    assert said and Outbox(tmp_path).problems()
    monkeypatch.setenv("MLFLOW_RUN_ID", "outer")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    given = MlflowTracker.given(uri)
    assert given["mlflow_root"] == "outer"
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and PLANTED not in str((said, kept, given))


def test_a_run_within_mlflow_s_own_is_not_sent_with_the_mask_as_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After tracking.uri moved, a note of the old store holds no password to log in with; MLflow asked with ``***`` for ever."""
    from pipelines.project.config import TrackingSettings
    from pipelines.tracking.mlflow import MlflowTracker
    from pipelines.tracking.tracked_run import Record

    old, new, asked = f"http://user:{PLANTED}@old:9", "http://new:9", list[str]()
    monkeypatch.setenv("MLFLOW_RUN_ID", "outer")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def ask(self: MlflowTracker, uri: str) -> None:
        asked.append(uri)
        raise ConnectionError

    monkeypatch.setattr(MlflowTracker, "_client", ask)
    record: Record = SimpleNamespace(id="batch-1", parent=None)  # type: ignore[assignment]

    def deliver(now: str, noted: str) -> None:
        MlflowTracker(TrackingSettings(uri=now), now, tmp_path).deliver(record, MlflowTracker.given(noted))

    with pytest.raises(
        ConfigError, match=r"^it belongs to http://old:9, .*; set tracking\.uri back, or delete its note in .*/outbox/mlflow$"
    ):
        deliver(new, old)
    assert not asked
    for now, noted in ((old, old), (new, new), (old, new)):
        with pytest.raises(ConnectionError):
            deliver(now, noted)
    assert asked == [old, new, new], "what has no password is asked where it was"


def unpacked(payload: bytes) -> bytes:
    """A pickled function as Beam sends it: base64 of a compressed pickle, or a plain one."""
    for unpack in (lambda data: zlib.decompress(b64decode(data)), lambda data: bz2.decompress(b64decode(data)), b64decode):
        try:
            return unpack(payload)
        except Exception:
            continue
    return payload


def test_children_that_need_no_secret_are_given_none() -> None:
    """SECURITY C1, H6: the JVMs' environment."""
    given = {"TANDEM_KAFKA__SASL_PASSWORD": "x", "TANDEM_ALERTS__WEBHOOK": "x", "VAULT_TOKEN": "x", "TANDEM_WORKER_POOL_TOKEN": "x"}
    kept = {"PATH": "/bin", "TANDEM_DATA": "/data", "JAVA_HOME": "/java"}
    assert without_secrets({**given, **kept}) == kept
    assert all(sounds_secret(".".join(path)) for path in secret_fields(Settings)), "each secret of the settings is called like one"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:pw@db:5432/x", "postgresql://***@db:5432/x"),
        ("https://token@host/a?b=1", "https://***@host/a?b=1"),
        ("redis.internal:6379,password=pw,db=0", "redis.internal:6379,password=***,db=0"),
        ("Server=x;Pwd=pw;Database=y", "Server=x;Pwd=***;Database=y"),
        ("redis://:p@pw@db:6379", "redis://***@db:6379"),
        ('PlainLoginModule required username="a" password="pw pw";', 'PlainLoginModule required username="a" password=***;'),
        ("Authorization: Bearer pwpwpw.pw", "Authorization: Bearer ***"),
        ("-----BEGIN RSA PRIVATE KEY-----\npw\n", "-----BEGIN RSA PRIVATE KEY-----***"),
        ("passphrase: pw", "passphrase: ***"),
        ("no secret: a@b.c", "no secret: a@b.c"),
        ("{'password': b'pw', 'x': 1}", "{'password': ***, 'x': 1}"),
        (r"{\"token\": \"pw\", \"x\": 1}", r"{\"token\": ***, \"x\": 1}"),
        (r'password="p\"pw"; x', "password=***; x"),
        ("secret_key=pw secretKey: pw", "secret_key=*** secretKey: ***"),
        ("AccountKey=pw==;EndpointSuffix=x", "AccountKey=***;EndpointSuffix=x"),
        ("Server=x;Password=pw pw;Database=y", "Server=x;Password=***;Database=y"),
        ("token => pw", "token => ***"),
        ("redis://:p/pw@db:6379/0", "redis://***@db:6379/0"),
        ("Authorization: Token pwpwpwpw", "Authorization: Token ***"),
        ("http://db:8080/a?b=c and d@e.f", "http://db:8080/a?b=c and d@e.f"),
    ],
)
def test_addresses_are_shown_without_their_secrets(text: str, shown: str) -> None:
    """SECURITY M3: unmasked forms."""
    assert masked(text) == shown or "secret: " in text
    assert "pw" not in masked(text)
    assert "pw" not in provenance.masked({"a": [text]})["a"][0], "manifests and errors in them"
    assert "pw" not in " ".join(provenance.masked_command(["tandem", "x", "--set", text]))


def test_a_secret_comes_from_vault(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M3: hvac against a server that answers as Vault's KV store, version 2, does."""
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Vault(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.path == "/v1/secret/data/teams/tandem" and self.headers["X-Vault-Token"] == "vault token"
            body = json.dumps(
                {"data": {"data": {"kafka.sasl_password": PLANTED}, "metadata": {}}} if right else {"errors": ["no"]}
            ).encode()
            self.send_response(200 if right else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Vault)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("TANDEM_VAULT_PATH", "secret/teams/tandem")
        monkeypatch.setenv("VAULT_TOKEN", "wrong token")
        with pytest.raises(ConfigError, match="gave nothing") as error:
            load_settings(repo)
        assert "wrong token" not in str(error.value) and "\n" not in str(error.value)
        monkeypatch.setenv("VAULT_TOKEN", "vault token")
        assert password(repo) == PLANTED
        monkeypatch.setenv("TANDEM_VAULT_PATH", "secret")
        with pytest.raises(ConfigError, match="write mount/path"):
            load_settings(repo)
    finally:
        server.shutdown()
        server.server_close()
