"""``tandem apply`` killed at random moments, several at once, and ``tandem materialize`` killed: right afterwards both stores are asked.

Two sets of graphs of one repository, each with rows of its own events; an apply goes from one to the other. After each trial every shop's
row, as it is served, is wholly of one of both; one more command, whichever, completes what was killed; and after materialize every value
is that of the graphs that are applied.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.feature_store import applying
from pipelines.feature_store.store import open_store, ordered_store
from pipelines.lake import graphs, layout
from pipelines.lake.audit import AuditLog
from pipelines.lake.runs import list_runs
from pipelines.verify.offline_online import compare_stores
from tests.integration.orders_world import END, START, Orders, order
from tests.prove.report import Part
from tests.prove.steps import Stepper
from tests.redis_server import redis_server

SEED = 20240501
SHOPS = 40
LIMITS = (1000, 500)
"""What the field ``amount`` may be at most, by set."""
FEATURES = ("count_1h", "count_24h", "amount_mean_1h")
Row = tuple[Any, ...]


@dataclass
class World:
    """``graphs``: the fingerprints of both sets; ``rows``: set -> shop -> its latest row, by plain Python."""

    orders: Orders
    graphs: list[dict[str, str]] = field(default_factory=list)
    rows: list[dict[int, Row]] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for number, most in enumerate(LIMITS):
            log = [
                order(f"{number}-{shop}-{n}", f"23:{10 + n}", 1.5 + 7 * number + shop + n, shop)
                for shop in range(SHOPS)
                for n in range(1 + shop % 5 + number)
            ]
            amounts = [[e["amount"] for e in log if e["shop"] == shop] for shop in range(SHOPS)]
            self.rows.append({shop: (len(each), len(each), math.fsum(each) / len(each)) for shop, each in enumerate(amounts)})
            self.orders.define(f", max={most}")
            self.orders.log(log)
            self.orders.round()
            self.graphs.append({n: str(graphs.applied_graph(graphs.folder(self.orders.data), n)) for n in self.orders.repo().groups})
        assert self.rows[0] != self.rows[1] and self.graphs[0] != self.graphs[1]
        for number in (0, 1):  # the second time nothing is done for the first time
            begun = time.monotonic()
            assert os.waitstatus_to_exitcode(os.waitpid(fork(partial(self.apply, number)), 0)[1]) == 0
            self.seconds = time.monotonic() - begun

    def apply(self, number: int) -> None:
        """As ``tandem apply``, of one set."""
        applying.apply_fingerprints(self.orders.repo(), lambda: self.graphs[number])

    def pointer(self) -> int:
        """Which set is applied, all of it; -1 for a mixture."""
        now = {n: str(graphs.applied_graph(graphs.folder(self.orders.data), n)) for n in self.graphs[0]}
        return self.graphs.index(now) if now in self.graphs else -1

    def places(self) -> list[str]:
        """Where registry or online store are not of the applied graphs."""
        repo = self.orders.repo()
        store = open_store(repo)
        online, want = ordered_store(store), self.graphs[self.pointer()]
        views = {v.name: v for v in store.list_feature_views()}
        out = [f"the store takes rows of another graph of {n}" for n in want if online.applied_fingerprint(store.config, n) != want[n]]
        sources = {n: (v.batch_source.tags or {}).get("tandem_fingerprint") for n, v in views.items()}
        return out + [f"the registry reads rows of another graph of {n}" for n in want if sources.get(n) != want[n]]

    def served(self) -> dict[int, Row]:
        """Every shop's row, as it is served."""
        asked = [{"shop": shop} for shop in range(SHOPS)]
        found = self.orders.feast().get_online_features([f"shop_orders:{n}" for n in FEATURES], asked).to_dict()
        return {shop: tuple(found[n][shop] for n in FEATURES) for shop in range(SHOPS)}

    def mixed(self, served: dict[int, Row]) -> list[str]:
        """Rows that are of neither set."""
        return [f"shop {s}: {row} is served" for s, row in served.items() if row not in (self.rows[0][s], self.rows[1][s])]

    def tandem(self, *words: str) -> str:
        """A command, in this process."""
        result = CliRunner().invoke(app, [*words, "--repo", str(self.orders.repo_path)])
        return "" if result.exit_code == 0 else f"{words[0]}: exit code {result.exit_code}: {result.output[-300:]} {result.exception}"

    def materialize(self) -> str:
        """All of both sets' time."""
        return self.tandem("materialize", "--start", f"{START:%Y-%m-%d}", "--end", f"{END:%Y-%m-%d}T00:30")

    def audited(self) -> list[str]:
        """What is wrong with the audit log."""
        problem = AuditLog(layout.audit(self.orders.data)).check().problem
        return [f"audit log: {problem}"] if problem else []

    def right(self) -> list[str]:
        """What is wrong after materialize."""
        problem = self.materialize()
        want, now = self.rows[self.pointer()], self.served()
        out = [problem] if problem else []
        out += [f"shop {s}: {now[s]} is served, {want[s]} is due" for s in want if now[s] != want[s]]
        compared = compare_stores(self.orders.repo(), self.orders.feast())
        return out + [f"{n}: {line}" for n, both in compared.items() if both.unexplained for line in both.lines[:3]] + self.places()


VALUES = SHOPS * len(FEATURES)


class Reader:
    """Reads which graphs are applied, and the registry and rows as a server does, for as long as others work."""

    def __init__(self, world: World) -> None:
        self.world, self.wrong, self.looks, self.over = world, list[str](), 0, threading.Event()
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()

    def go_on(self) -> None:
        """Until :meth:`close`."""
        while not self.over.wait(0.2):
            try:
                if graphs.applied_graphs(self.world.orders.data) not in self.world.graphs:
                    self.wrong.append("a reader saw graphs of both sets")
                self.wrong += [f"a reader: {line}" for line in self.world.mixed(self.world.served())]
            except Exception as error:  # whatever it is, a server would have had it
                self.wrong.append(f"a reader: {type(error).__name__}: {error}")
            self.looks += 1

    def found(self) -> list[str]:
        """What was wrong since the last time."""
        wrong, self.wrong = self.wrong, []
        return wrong

    def close(self) -> None:
        """Stop."""
        self.over.set()
        self.thread.join()


@pytest.fixture(params=["sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sqlite":
        yield World(Orders(tmp_path, as_of=END + timedelta(minutes=30)))
    else:
        with redis_server() as server:
            kind = "tandem.serving.online_store.redis.OrderedRedisOnlineStore"
            store = {"type": kind, "connection_string": server.connection_string}
            yield World(Orders(tmp_path, as_of=END + timedelta(minutes=30), store=store))


def fork(work: Callable[[], Any]) -> int:
    """A process that does it, and ends with 0, or 1 where it raised; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def half(trials: int, world: World) -> int:
    """The odd one goes to SQLite."""
    return trials // 2 if world.orders.store else (trials + 1) // 2


def killed(pid: int, after: float) -> str:
    """SIGKILL after some seconds; what was hit."""
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "at work" if code < 0 else "just ended"


NEXT = (("verify", "--stores"), ("materialize",), ("erase", "--entity", "shop=987654321987654321"), ("apply",))
"""What comes after the kill."""


def test_apply_killed_at_random_moments(world: World, trials: int, report: Part) -> None:
    rng, problems = random.Random(f"{SEED} {bool(world.orders.store)}"), []
    entry = report.kind("kill -9 apply")
    entry.runs += 1
    for _ in range(half(trials, world)):
        begun, old = time.monotonic(), world.pointer()
        hit = killed(fork(partial(world.apply, 1 - old)), rng.uniform(0, 1.1 * world.seconds))
        under_way = graphs.applying(world.orders.data) is not None
        now = world.pointer()
        hit += ", half done" if under_way else ", done" if now != old else ", not begun"
        wrong = [] if now in (0, 1) else ["the pointer is of both"]
        wrong += world.mixed(world.served())
        after, words = time.monotonic(), rng.choice(NEXT)
        if words == ("materialize",):
            problem = world.materialize()
        elif words == ("apply",):
            problem = ""
            world.apply(now)
        else:
            problem = world.tandem(*words)
        recovery = time.monotonic() - after
        if problem and words != ("verify", "--stores"):  # it may say that nothing was materialized of these graphs
            wrong.append(problem)
        if graphs.applying(world.orders.data) is not None or world.pointer() != now:
            wrong.append(f"{words[0]} left the apply half done")
        wrong += world.places() + world.mixed(world.served()) + world.right()
        counts = {f"completed by {words[0]}": int(under_way)} if under_way else None
        entry.trial(hit, 3 * VALUES, wrong, time.monotonic() - begun, recovery=recovery, counts=counts)
        problems += [f"{hit}, then {words[0]}: {line}" for line in wrong]
    assert not problems, "\n".join(problems[:20])


def test_applies_at_once(world: World, trials: int, report: Part) -> None:
    rng, problems = random.Random(f"{SEED} at once"), []
    entry = report.kind("several applies at once")
    entry.runs += 1
    for _ in range(half(trials, world)):
        begun, pids = time.monotonic(), []
        for number in rng.choice([(0, 1), (1, 0), (0, 1, 0), (1, 0, 1)]):
            pids.append(fork(partial(world.apply, number)))
            time.sleep(rng.choice([0, rng.uniform(0, world.seconds)]))
        victim = rng.choice([*pids, None])
        hit = f"{len(pids)} of them, " + ("all end" if victim is None else "one killed")
        if victim is not None:
            hit += f" ({killed(victim, rng.uniform(0, world.seconds))})"
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids if pid != victim]
        wrong = [f"an apply ended with {code}" for code in codes if code]
        after = time.monotonic()
        applying.finish(world.orders.repo())
        recovery = time.monotonic() - after
        wrong += ([] if world.pointer() in (0, 1) else ["the pointer is of both"]) + world.places() + world.mixed(world.served())
        wrong += world.right()
        entry.trial(hit, 2 * VALUES, wrong, time.monotonic() - begun, recovery=recovery)
        problems += [f"{hit}: {line}" for line in wrong]
    assert not problems, "\n".join(problems[:20])


def test_materialize_killed(world: World, trials: int, report: Part) -> None:
    """Restoring an online store by materialize, killed on the way: rows are whole all the time, and the next one ends it."""
    rng, problems = random.Random(f"{SEED} materialize"), []
    entry = report.kind("kill -9 materialize")
    entry.runs += 1
    begun = time.monotonic()
    world.right()
    most = time.monotonic() - begun
    for _ in range(half(trials, world)):
        begun = time.monotonic()
        world.apply(1 - world.pointer())
        hit = killed(fork(world.materialize), rng.uniform(0, most))
        served = world.served()
        fresh = sum(row == world.rows[world.pointer()][shop] for shop, row in served.items())
        hit += ", " + ("no row yet" if not fresh else "all rows" if fresh == SHOPS else "some rows")
        wrong, after = world.mixed(served), time.monotonic()
        wrong += world.right()
        entry.trial(hit, 2 * VALUES, wrong, time.monotonic() - begun, recovery=time.monotonic() - after)
        problems += [f"{hit}: {line}" for line in wrong]
    assert not problems, "\n".join(problems[:20])


def test_apply_killed_at_each_step(world: World, report: Part, tmp_path: Path) -> None:
    """Not at random: before each call that changes what others see, and within each write, whoever makes it; while somebody reads."""
    entry, problems = report.kind("kill -9 apply at each step"), []
    entry.runs += 1
    runs = [run.id for run in list_runs(world.orders.data) if run.kind == "batch"]  # run ids begin with their time
    reader, stepper = Reader(world), Stepper(tmp_path / "steps")
    apply = ("apply", "--repo", str(world.orders.repo_path), "--reason", "a trial", "--run")
    with closing(reader), closing(stepper):
        for half_of in (False, True):
            for at in count(1):
                begun, old = time.monotonic(), world.pointer()
                world.orders.define(f", max={LIMITS[1 - old]}")
                code, _ = stepper.run(*apply, runs[1 - old], at=at, half=half_of)
                if code == 0:  # it had no more steps
                    break
                now, under_way = world.pointer(), graphs.applying(world.orders.data) is not None
                wrong = [f"the exit code is {code}"] if code != -signal.SIGKILL else []
                wrong += ["the pointer is of both"] if now not in (0, 1) else []
                wrong += world.mixed(world.served()) + world.audited()
                blow = time.monotonic()
                if (code := stepper.run(*apply, runs[1 - old])[0]) != 0:
                    wrong.append(f"the second apply ends with {code}: {stepper.said()}")
                recovery = time.monotonic() - blow
                if world.pointer() != 1 - old or graphs.applying(world.orders.data) is not None:
                    wrong.append("the second apply is half done")
                wrong += world.places() + world.mixed(world.served()) + world.audited() + reader.found()
                hit = "half done" if under_way else "done" if now != old else "not begun"
                hit = f"{'within a write' if half_of else 'before a step'}, {hit}"
                entry.trial(hit, 2 * VALUES, wrong, time.monotonic() - begun, recovery=recovery)
                problems += [f"{hit} {at}: {line}" for line in wrong]
            assert at > (10 if half_of else 40)
        wrong = world.right() + reader.found()
    assert reader.looks > 50
    assert not problems + wrong, "\n".join((problems + wrong)[:20])
