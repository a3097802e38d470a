"""What kafka-python logs, of which a command with ``--log-format json`` would show every line."""

from __future__ import annotations

import logging
import socket

import pytest

from pipelines.sources.broker import BrokerAway
from pipelines.sources.kafka.connection import KafkaConnection


def test_an_unreachable_broker_is_one_error_of_ours_and_no_line_of_kafka_python(caplog: pytest.LogCaptureFixture) -> None:
    """Its loggers hold no level of their own: theirs would be asked, and not that of the one above them."""
    caplog.set_level(logging.DEBUG)
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        options = {"bootstrap_servers": [f"127.0.0.1:{bound.getsockname()[1]}"], "security_protocol": "PLAINTEXT"}
        connection = KafkaConnection(options, answer_seconds=0.5)
        with pytest.raises(BrokerAway):
            connection.topic("cards")
        connection.close()
    assert [each for each in caplog.records if each.name.startswith("kafka")] == []
    assert not logging.getLogger("kafka.net.manager").isEnabledFor(logging.ERROR)


def test_a_logger_that_is_turned_to_debugging_shows_no_requests(caplog: pytest.LogCaptureFixture) -> None:
    """By its own level too; a line of its own at INFO is heard."""
    with caplog.at_level(logging.DEBUG, "kafka.net.connection"):
        logging.getLogger("kafka.net.connection").debug("a request with a password")
        logging.getLogger("kafka.net.connection").info("connected")
    assert [each.message for each in caplog.records] == ["connected"]
