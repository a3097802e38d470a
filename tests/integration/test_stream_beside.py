"""A stream beside corrections, on a real broker and both stores: docs/semantics.md's "Which row counts", asked after every step.

Batch runs, materializations and the stream are the product's own; what must be stored is said by the oracle. What the histories of
:mod:`tests.integration.round_world` make up as a stream's rows comes here from Kafka, through the windows that the stream keeps.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.services.kafka_broker import Broker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.kafka_world import new_topic, options_of, produce
from tests.integration.orders_world import END, START, Orders, online_store
from tests.oracle.features import rows
from tests.oracle.rounds import Rounds
from tests.oracle.stream_time import reached
from transforms.instants import micros_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOUR, MINUTE = 3_600_000_000, 60_000_000
DAY0, FIRST = micros_of(START), 6
"""The stream begins where a run over the first hours ended."""
STEPS = ("send", "stream", "correct", "send", "round", "stream", "send", "lose", "stream", "correct", "round", "send", "stream")


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    with online_store(request.param) as settings:
        yield settings


class History:
    """One repository, its event log, its topic, and the oracle of each group."""

    def __init__(self, folder: Path, broker: Broker, store: dict[str, Any], seed: int) -> None:
        self.rng, self.number, self.at = random.Random(seed), 0, DAY0 + FIRST * HOUR
        self.world = Orders(folder, as_of=END + timedelta(days=1), store=store)
        options = options_of(broker.bootstrap)
        self.topic, letters = new_topic(options), new_topic(options)
        settings = {
            "data": "../data",
            "definitions": "features",
            "batch": {"shards": 1},
            "kafka": {"bootstrap_servers": broker.bootstrap, "dead_letters": letters},
            "stream": {"clock": "replay", "shards": 2, "idle_seconds": 3600},
        }
        (self.world.repo_path / "tandem.yaml").write_text(json.dumps(settings))
        text = (self.world.repo_path / "features.py").read_text()
        (self.world.repo_path / "features.py").write_text(text.replace('topic="orders"', f'topic="{self.topic}"'))
        self.options = options
        self.log = [self.event(DAY0 + self.rng.randrange(FIRST * 60) * MINUTE) for _ in range(12)]
        self.topics: list[dict[str, Any]] = []
        self.base: list[dict[str, Any]] = []
        self.groups = self.world.repo().groups
        self.oracles = {name: Rounds({"g": group}) for name, group in self.groups.items()}

    def event(self, at: int) -> dict[str, Any]:
        self.number += 1
        shop, city = self.rng.randrange(3), self.rng.choice("abc")
        return {"order_id": f"o{self.number}", "shop": shop, "city": city, "amount": float(self.rng.randrange(9)), "at": at}

    def send(self) -> None:
        """Events of the next hours, some out of order, into the topic; most are archived in the event log."""
        sent = []
        for _ in range(self.rng.randint(3, 8)):
            self.at += self.rng.randrange(5, 50) * MINUTE
            sent.append(self.event(max(self.at - self.rng.choice([0, 0, 20]) * MINUTE, DAY0 + FIRST * HOUR)))
        produce(self.options, self.topic, [json.dumps(e).encode() for e in sent])
        self.topics += sent
        self.log += [e for e in sent if self.rng.random() < 0.8]

    def correct(self) -> None:
        """Events are taken out of the log, one is changed, one that nobody sent is put in."""
        for _ in range(self.rng.randint(1, 4)):
            self.log.pop(self.rng.randrange(len(self.log)))
        self.log[0] = {**self.log[0], "amount": 100.0}
        self.log.append(self.event(self.rng.choice(self.log)["at"]))

    def lose(self) -> None:
        """A whole key is gone from the log."""
        self.log = [e for e in self.log if e["shop"] != 1]

    def round(self, end: int | None = None) -> None:
        """A run over the log up to an hour that the stream has passed or not, and its rows into the store."""
        end = end or DAY0 + self.rng.randrange(FIRST, (self.at - DAY0) // HOUR + 2) * HOUR
        self.world.log(self.log)
        upto = START + timedelta(microseconds=end - DAY0)
        run = self.world.batch(START, upto)
        self.world.apply(run)
        self.world.materialize(START, upto + timedelta(hours=1))
        for oracle in self.oracles.values():
            oracle.run("g", self.log, DAY0, end)
            oracle.apply("g")
            oracle.materialize(end + HOUR)

    def stream(self) -> None:
        """The stream goes on to the end of its topic."""
        how = StreamOptions(runner="direct", until="latest", from_run="latest")
        assert run_stream(self.world.repo(), how, lambda line: None)["code"] == 0
        for name, oracle in self.oracles.items():
            group = self.groups[name]
            slack = group.delay_us
            now, _ = reached([e["at"] for e in self.topics], slack + HOUR)
            if now is not None:
                begin = DAY0 + FIRST * HOUR
                upto = (now - slack) // group.hop_us * group.hop_us
                oracle.write(rows([*self.base, *self.topics], group, begin, max(begin, upto)))

    def check(self, step: str) -> None:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        feast = self.world.feast()
        online = feast._get_provider().online_store
        for name, oracle in self.oracles.items():
            expected, (key,) = oracle.online(), self.groups[name].entity.keys
            names = [*(f.name for f in self.groups[name].features), "tandem_revision"]
            wanted = [Value(int64_val=s) for s in range(3)] if key == "shop" else [Value(string_val=c) for c in "abc"]
            entities = [EntityKey(join_keys=[key], entity_values=[value]) for value in wanted]
            found = online.online_read_stored(feast.config, feast.get_feature_view(name), entities, names)
            for value, (at, values) in zip(wanted, found, strict=True):
                plain = getattr(value, str(value.WhichOneof("val")))
                right = expected.get((plain,))
                have = None
                if at is not None:
                    have = {n: getattr(v, kind) if (kind := v.WhichOneof("val")) else None for n, v in values.items()}
                    have["event_timestamp"] = micros_of(at)
                assert (have is None) == (right is None), f"{step}: {name} {plain}: {have} for {right}"
                assert have is None or (right is not None and have == {n: right[n] for n in have}), f"{step}: {name} {plain}"


def test_both_stores_hold_what_the_rule_says_whatever_stream_and_corrections_do(
    tmp_path: Path, broker: Broker, store: dict[str, Any]
) -> None:
    """FAULTS 1: a correction is not undone by the stream beside it, an event that only the stream has is not lost, and a key or an event
    that was taken out of the log is gone."""
    seed = 2 if store else 1
    history = History(tmp_path, broker, store, seed)
    history.round(DAY0 + FIRST * HOUR)
    history.base = list(history.log)
    steps = list(STEPS)
    history.rng.shuffle(steps)
    steps = ["send", "stream", *steps, "stream"]
    for number, step in enumerate(steps):
        getattr(history, step)()
        history.check(f"seed {seed}, step {number} ({step}) of {steps}")
    assert all(oracle.online() and oracle.stream for oracle in history.oracles.values()), "the test is empty"
