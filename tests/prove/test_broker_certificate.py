"""The broker's certificate expires while a stream reads by TLS: the stream says so, waits, loses nothing, and goes on with the new one."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake.processes import free_ports
from pipelines.services.kafka_broker import HOST, Broker
from tests.certificates import Authority
from tests.integration.stream_world import StreamWorld, end, events, make_stream_world
from tests.prove.report import Part
from tests.waiting import until

SEED = 20240801
SAID_SECONDS = 60.0
RECORDS = 300


class Secure(Broker):
    """A broker with a second door, by TLS; its certificate is whatever is in ``server.pem`` when it starts."""

    secure_port = 0

    def _write_settings(self, name: str, settings: dict[str, Any]) -> None:
        if "ssl.keystore.type" in settings:  # these very settings again, for the tool that makes the data folder
            return super()._write_settings(name, settings)
        self.secure_port = self.secure_port or free_ports(1)[0]
        more = {
            "listeners": f"{settings['listeners']},SSL://{HOST}:{self.secure_port}",
            "advertised.listeners": f"{settings['advertised.listeners']},SSL://{HOST}:{self.secure_port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": "server.pem",
        }
        return super()._write_settings(name, settings | more)


class Certificates:
    """Puts certificates in the broker's place."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.folder = Authority(), folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)

    def issue(self, ends: timedelta) -> None:
        """One that ends after so long, or did so long ago."""
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        self.authority.issue(cert, key, "localhost", server=True, ends=ends)
        (self.folder / "server.pem").write_bytes(key.read_bytes() + cert.read_bytes())


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "kafka")


@pytest.fixture
def broker(certificates: Certificates) -> Iterator[Secure]:
    certificates.issue(timedelta(days=30))
    running = Secure(certificates.folder)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture
def world(tmp_path: Path, broker: Secure, certificates: Certificates) -> StreamWorld:
    made = make_stream_world(tmp_path / "world", broker.bootstrap, topic="secure")
    path = made.path / "tandem.yaml"
    settings = json.loads(path.read_text())
    settings["kafka"] |= {
        "bootstrap_servers": f"{HOST}:{broker.secure_port}",
        "security_protocol": "SSL",
        "ssl_cafile": str(certificates.ca),
    }
    path.write_text(json.dumps(settings))
    return made


def test_the_brokers_certificate_expires(world: StreamWorld, broker: Secure, certificates: Certificates, trials: int, report: Part) -> None:
    rng, problems = random.Random(SEED), []
    entry = report.kind("broker's certificate expires")
    entry.runs += 1
    world.produce(events(RECORDS, 0, seconds=3600))
    stream = world.start()
    try:
        until(lambda: world.delivered() == world.total(), 240, stream)
        for number in range(1, trials + 1):
            begun, before, said = time.monotonic(), world.total(), len(world.out())
            certificates.issue(timedelta(seconds=-rng.uniform(1, 80_000)))
            broker.restart()
            world.produce(events(RECORDS, number, start=number * 3600, seconds=3600))
            told = lambda: "certificate" in world.out()[said:].lower() and "expired" in world.out()[said:]  # noqa: B023, E731
            wrong = []
            try:
                until(told, SAID_SECONDS, stream)
            except AssertionError:
                wrong.append(f"nothing is said of the certificate: {world.out()[said:][-300:]}")
            if world.delivered() > before:
                wrong.append("records were read by an expired certificate")
            certificates.issue(timedelta(days=30))
            broker.restart()
            blow = time.monotonic()
            until(lambda: world.delivered() == world.total(), 240, stream)
            recovery = time.monotonic() - blow
            values = 0
            try:
                values = world.assert_right()
            except AssertionError as error:
                wrong.append(str(error).splitlines()[0][:300])
            entry.trial(
                "broker",
                values,
                wrong,
                time.monotonic() - begun,
                acknowledged=RECORDS,
                applied=world.delivered() - before,
                recovery=recovery,
            )
            problems += wrong
        stream.terminate()
        assert stream.wait(120) == 0, world.out()[-2000:]
        world.assert_right()
    finally:
        end(stream)
    assert not problems, "\n".join(problems)
