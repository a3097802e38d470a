"""How this process reaches Kafka: kafka-python's options from the settings, and what is made of them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.lake import layout
from pipelines.project.secrets import Secret
from pipelines.services.kafka_broker import LOCAL_USER, PASSWORD, password_of, running
from pipelines.sources.broker import Broker, DeadLetterWriter, PartitionReader
from pipelines.sources.kafka.connection import ANSWER_SECONDS
from pipelines.sources.kafka.dead_letters import KafkaDeadLetters
from pipelines.sources.kafka.partition_reader import KafkaPartitionReader
from transforms.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.project.config import KafkaSettings

__all__ = ["KafkaBroker", "client_options"]

_PASSWORD = "sasl_plain_password"


@dataclass(frozen=True)
class KafkaBroker(Broker):
    """The Kafka that kafka-python's options (:func:`client_options`) lead to. ``password`` is the one of SASL: read where the connection is
    made, so that a pickle of this holds none. So ``public`` are the options without it, with which no client gets in where one is asked
    for: :meth:`connection` is what a client takes."""

    public: Mapping[str, Any] = field(repr=False)
    password: Secret | None = None

    @classmethod
    def from_settings(cls, kafka: KafkaSettings, data: Path) -> KafkaBroker:
        """The configured brokers, or those of ``tandem up`` in the data folder. Raises ConfigError."""
        options = client_options(kafka, data)
        secret = kafka.sasl_password if kafka.bootstrap_servers else Secret.of_file(layout.services(data) / "kafka" / PASSWORD)
        return cls(options, secret if options.pop(_PASSWORD, None) is not None else None)

    def connection(self) -> dict[str, Any]:
        """The options with the password."""
        return {**self.public, **({} if self.password is None else {_PASSWORD: self.password.get_secret_value()})}

    def open_reader(self) -> PartitionReader:
        """A connection of its own."""
        return KafkaPartitionReader(self.connection())

    def open_dead_letters(self, topic: str, seconds: float) -> DeadLetterWriter:
        """A producer of its own, with the first letter."""
        return KafkaDeadLetters(self.connection(), topic, seconds)


def client_options(kafka: KafkaSettings, data: Path) -> dict[str, Any]:
    """The options that every client of kafka-python takes (consumer, producer, admin) for the configured brokers.

    Without configured brokers: those of ``tandem up`` in the data folder. Raises ConfigError.
    """
    servers = [s.strip() for s in kafka.bootstrap_servers.split(",") if s.strip()]
    own = ""
    if not servers:
        found = running(data)
        if found is None:
            raise ConfigError("kafka.bootstrap_servers is empty and no local broker is running; set it, or start a broker with 'tandem up'")
        servers, own = [found], password_of(layout.services(data) / "kafka")
    for server in servers:
        if not server.rpartition(":")[2].isdigit():
            raise ConfigError(f"kafka.bootstrap_servers: {server!r} has no port; write host:port")
    options: dict[str, Any] = {
        "bootstrap_servers": servers,
        "client_id": "tandem",
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": 10_000,
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 1000,
        "bootstrap_timeout_ms": int(ANSWER_SECONDS * 1000),
    }
    if own:  # of tandem up, whatever tandem.yaml says of others
        login = {"sasl_mechanism": "PLAIN", "sasl_plain_username": LOCAL_USER, _PASSWORD: own}
        return {**options, "security_protocol": "SASL_PLAINTEXT", **login}
    if kafka.security_protocol.startswith("SASL"):
        missing = [k for k in ("sasl_mechanism", "sasl_username", "sasl_password") if not getattr(kafka, k)]
        if missing:
            raise ConfigError(f"kafka.{missing[0]} is missing; security_protocol {kafka.security_protocol} needs it")
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            _PASSWORD: kafka.sasl_password.get_secret_value() if kafka.sasl_password is not None else "",
        }
    if kafka.security_protocol.endswith("SSL"):
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            path = getattr(kafka, name)
            if path is None:
                continue
            if not path.is_file():
                raise ConfigError(f"kafka.{name}: there is no file {path}; correct the path")
            options[name] = str(path)
        try:
            context = ssl.create_default_context(cafile=options.get("ssl_cafile"))
            if "ssl_certfile" in options:
                context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        except OSError as error:
            raise ConfigError(f"kafka.ssl_cafile, ssl_certfile or ssl_keyfile is no such thing: {error}; give PEM files") from None
    return options
