"""A replay of dead letters, as a process, that stops at a chosen point, says so, and waits to be killed.

The processes are forked from one that has imported everything and runs nothing: the imports take longer than what is tested.
"""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Semaphore
from typing import Any

import pytest
from kafka import KafkaProducer

from pipelines.sources.kafka import dead_letter_replay as dlq
from pipelines.sources.kafka.kafka_client import KafkaBroker
from pipelines.sources.letters import Choice
from tests.integration.kafka_world import options_of
from transforms.errors import StoreError

_ready = multiprocessing.get_context("forkserver")
_ready.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Victim:
    """The process, what it says, and how often it may go on."""

    process: ForkServerProcess
    said: Connection
    go_on: Semaphore

    def wait_for(self, word: str, seconds: float = 60.0) -> None:
        """Until it says this."""
        while self.said.poll(seconds):
            try:
                if self.said.recv() == word:
                    return
            except EOFError:
                break
        pytest.fail(f"the replay ended, or hangs, without {word!r}")

    def last_word(self, seconds: float = 120.0) -> str:
        """How its replay ended by itself: ``done``, or the error."""
        word = ""
        with suppress(EOFError):
            while self.said.poll(seconds):
                word = self.said.recv()
        self.process.join(seconds)
        assert self.process.exitcode == 0, f"{self.process.exitcode} after {word!r}"
        return word

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join()


def victim(bootstrap: str, topic: str, point: str, number: int, turns: int = 0) -> Victim:
    """A process that replays all of ``topic``; where it stops: :func:`stop_at`. ``turns``: how many transactions it may begin if never."""
    ours, theirs = _ready.Pipe(duplex=False)
    go_on = _ready.Semaphore(turns)
    process = _ready.Process(target=replay, args=(bootstrap, topic, point, number, theirs, go_on), daemon=True)
    process.start()
    theirs.close()
    return Victim(process, ours, go_on)


def stop_at(point: str, number: int, tell: Connection, go_on: Semaphore) -> None:
    """Make the n-th transaction stop: ``sending``, ``sent`` (all records are in the log, nothing is committed), ``committed``."""
    begin, send, commit = KafkaProducer.begin_transaction, KafkaProducer.send, KafkaProducer.commit_transaction
    count = {"transactions": 0, "sent": 0}

    def reached(where: str) -> None:
        if where == point and count["transactions"] == number:
            tell.send("reached")
            threading.Event().wait()

    def begin_transaction(self: KafkaProducer) -> None:
        count["transactions"] += 1
        count["sent"] = 0
        if point == "never":  # it is killed at any moment, but goes no further than it is let
            go_on.acquire()
        tell.send(f"transaction {count['transactions']}")
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


def replay(bootstrap: str, topic: str, point: str, number: int, tell: Connection, go_on: Semaphore) -> None:
    """Replay all of ``topic``, in the process; says how it ended."""
    dlq.BATCH = 10
    stop_at(point, number, tell, go_on)
    try:
        dlq.replay(KafkaBroker(options_of(bootstrap)), topic, Choice())
    except StoreError as error:
        tell.send(str(error))
    else:
        tell.send("done")
