"""A replay of dead letters, as a process, that stops at a chosen point, says so, and waits to be killed."""

from __future__ import annotations

import sys
import threading
from typing import Any

from kafka import KafkaProducer

from pipelines.sources.kafka import dead_letter_replay as dlq
from pipelines.sources.kafka.kafka_client import KafkaBroker
from pipelines.sources.letters import Choice
from tests.integration.kafka_world import options_of


def stop_at(point: str, number: int) -> None:
    """Make the n-th transaction stop: ``sending``, ``sent`` (all records are in the log, nothing is committed), ``committed``."""
    begin, send, commit = KafkaProducer.begin_transaction, KafkaProducer.send, KafkaProducer.commit_transaction
    count = {"transactions": 0, "sent": 0}

    def reached(where: str) -> None:
        if where == point and count["transactions"] == number:
            print("reached", flush=True)
            threading.Event().wait()

    def begin_transaction(self: KafkaProducer) -> None:
        count["transactions"] += 1
        count["sent"] = 0
        if point == "never":  # it is killed at any moment, but goes no further than it is let
            sys.stdin.readline()
        print(f"transaction {count['transactions']}", flush=True)
        begin(self)

    def send_one(self: KafkaProducer, *args: Any, **more: Any) -> Any:
        future = send(self, *args, **more)
        count["sent"] += 1
        if count["sent"] == 7:  # a record, its entry, ..., a record: its entry is missing
            self.flush(30)
            reached("sending")
        return future

    def commit_transaction(self: KafkaProducer) -> None:
        reached("sent")
        commit(self)
        reached("committed")

    KafkaProducer.begin_transaction, KafkaProducer.send, KafkaProducer.commit_transaction = begin_transaction, send_one, commit_transaction


def main(bootstrap: str, topic: str, point: str, number: str) -> None:
    """Replay all of ``topic``."""
    dlq.BATCH = 10
    stop_at(point, int(number))
    dlq.replay(KafkaBroker(options_of(bootstrap)), topic, Choice())


if __name__ == "__main__":
    main(*sys.argv[1:])
