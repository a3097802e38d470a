"""SASL and TLS by the settings, against a broker that insists on them; every mistake is one line."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.lake.processes import free_ports
from pipelines.project.config import KafkaSettings
from pipelines.services.kafka_broker import HOST, Broker
from pipelines.sources.broker import BrokerAway, BrokerRefused, FetchResult, UnknownTopic
from pipelines.sources.kafka.dead_letters import KafkaDeadLetters
from pipelines.sources.kafka.kafka_client import client_options
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from tests.integration.kafka_world import new_topic, options_of, produce
from transforms.errors import ConfigError


class Guarded(Broker):
    """A broker with a second door, for users with a password over TLS; the first one stays open for the test."""

    secure_port = 0

    def _write_settings(self, name: str, settings: dict[str, Any]) -> None:
        if "ssl.keystore.type" in settings:  # these very settings again, for the tool that makes the data folder
            return super()._write_settings(name, settings)
        self.secure_port = self.secure_port or free_ports(1)[0]
        login = "org.apache.kafka.common.security"
        more = {
            "listeners": f"{settings['listeners']},SASL_SSL://{HOST}:{self.secure_port}",
            "advertised.listeners": f"{settings['advertised.listeners']},SASL_SSL://{HOST}:{self.secure_port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login}.plain.PlainLoginModule required user_me="secret";',
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": "server.pem",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
        }
        return super()._write_settings(name, settings | more)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded") / "kafka"
    folder.mkdir()
    subject = ["-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{HOST}"]
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command = [*make, "-keyout", str(key), "-out", str(certificate), *subject]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "server.pem").write_text(key.read_text() + certificate.read_text())
    running = Guarded(folder)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def topic(broker: Guarded) -> str:
    """A topic with a record, that "me" may read."""
    from kafka import KafkaAdminClient
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    options = options_of(broker.bootstrap)
    name = new_topic(options, name="readable")
    produce(options, name, [b"hello"])
    new_topic(options, name="described")
    admin = KafkaAdminClient(**options)
    for resource, operation in (("readable", ACLOperation.READ), ("described", ACLOperation.DESCRIBE)):
        pattern = ResourcePattern(ResourceType.TOPIC, resource)
        admin.create_acls([ACL("User:me", "*", operation, ACLPermissionType.ALLOW, pattern)])
    admin.close()
    return name


def options(broker: Guarded, **changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "bootstrap_servers": f"{HOST}:{broker.secure_port}",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "me",
        "sasl_password": "secret",
        "ssl_cafile": broker.folder / "certificate.pem",
    }
    return client_options(KafkaSettings(**given | changed), Path("."))


def test_the_right_password_over_tls(broker: Guarded, topic: str) -> None:
    reader = KafkaPartitionReader(options(broker))
    deadline = time.monotonic() + 20
    while True:  # rights reach the broker a moment later
        try:
            polled = reader.poll(topic, 0, 0, 10, 1000)
            break
        except (ConfigError, UnknownTopic):
            assert time.monotonic() < deadline
    assert polled.payloads.to_pylist() == [b"hello"] and reader.end(topic, 0) == 1
    with pytest.raises(ConfigError, match="denied permission to read topic 'described'"):
        reader.poll("described", 0, 0, 10, 100)
    with pytest.raises(ConfigError, match=r"denied permission to|there is no Kafka topic 'secret'"):
        reader.partitions("secret")
    writer = KafkaDeadLetters(options(broker), "not.allowed")
    with pytest.raises(ConfigError, match="denied permission to"):
        writer.write(topic, 0, "s", polled, np.array([0]), ["r"], [None])
    writer.close()
    reader.close()


def test_a_right_that_is_taken_and_given_back(broker: Guarded, topic: str) -> None:
    """Who could read and no longer may is told that, reads nothing, and reads on where it was once it may again."""
    from kafka import KafkaAdminClient
    from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    plain = options_of(broker.bootstrap)
    name = new_topic(plain, name="taken")
    produce(plain, name, [b"one"])
    right = ACL("User:me", "*", ACLOperation.READ, ACLPermissionType.ALLOW, ResourcePattern(ResourceType.TOPIC, name))
    admin, reader, said = KafkaAdminClient(**plain), KafkaPartitionReader(options(broker)), list[str]()

    def polled(offset: int, wanted: bool) -> FetchResult | None:
        """What is there, or None for a refusal, once it is as ``wanted``."""
        deadline = time.monotonic() + 30
        while True:
            try:
                found: FetchResult | None = reader.poll(name, 0, offset, 10, 100)
            except BrokerRefused as error:
                found, said[:] = None, [str(error)]
            if (found is not None) == wanted and (found is None or len(found.offsets)):
                return found
            assert time.monotonic() < deadline, "it does not come"

    admin.create_acls([right])
    first = polled(0, True)
    assert first is not None and first.payloads.to_pylist() == [b"one"]
    admin.delete_acls([ACLFilter("User:me", "*", ACLOperation.READ, ACLPermissionType.ALLOW, ResourcePattern(ResourceType.TOPIC, name))])
    polled(1, False)
    assert "denied permission to" in said[0] and "\n" not in said[0]
    produce(plain, name, [b"two"])
    polled(1, False)
    admin.create_acls([right])
    again = polled(1, True)
    assert again is not None and (again.payloads.to_pylist(), again.offsets.tolist()) == ([b"two"], [1])
    admin.close()
    reader.close()


def test_debugging_shows_no_password(broker: Guarded, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    """kafka-python's own, which shows requests as they are and their bytes; by one setting for all of it, as logging is configured."""
    with caplog.at_level(1, "kafka"):
        logging.getLogger("kafka").warning("it is heard")
        reader = KafkaPartitionReader(options(broker, sasl_password="secret"))
        reader.partitions(topic)
        reader.close()
        writer = KafkaDeadLetters(options(broker), "not.allowed")
        writer.close()
    assert "it is heard" in caplog.text and "secret" not in caplog.text


@pytest.mark.slow
def test_mistakes_are_one_line(broker: Guarded, topic: str) -> None:
    def poll(**changed: Any) -> None:
        reader = KafkaPartitionReader(options(broker, **changed), answer_seconds=10)
        try:
            reader.poll(topic, 0, 0, 10, 100)
        finally:
            reader.close()

    begun = time.monotonic()
    # The broker sends its refusal and hangs up at once; kafka-python drops what it has not yet looked at when it sees the latter.
    with pytest.raises((ConfigError, BrokerAway), match=r"correct kafka\..*sasl_\*"):
        poll(sasl_password="wrong")
    with pytest.raises((ConfigError, BrokerAway), match=r"correct kafka\..*sasl_\*"):  # this broker hangs up without a word
        poll(sasl_mechanism="SCRAM-SHA-256")
    # A certificate that nobody known has signed.
    with pytest.raises(BrokerAway, match=r"by SASL_SSL for .* \(.*Handshake failed.*CERTIFICATE_VERIFY_FAILED"):
        poll(ssl_cafile=None)
    with pytest.raises(BrokerAway, match="by SASL_PLAINTEXT"):
        poll(security_protocol="SASL_PLAINTEXT")
    assert time.monotonic() - begun < 60
    with pytest.raises(ConfigError, match=r"kafka\.ssl_cafile, .* give PEM files"):
        poll(ssl_cafile=broker.folder / "server.properties")
