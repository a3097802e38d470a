"""``tandem promote`` and ``tandem rollback`` killed at random moments, and several at once, while a server serves and clients ask.

The champion is the one before or the one after, never none; every answer is wholly that of the version that it names; and the audit log
is whole. What promotes is the command; only the judging, which changes nothing, is left out.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.lake import layout
from pipelines.lake.audit import AuditLog
from pipelines.project.repository import Repo
from pipelines.promotion import promote as registry
from pipelines.registry import register
from pipelines.registry.alias_file import current
from serving.settings import ServingSettings
from tests.integration import registry_world, training_repo
from tests.integration.test_serving_process import served
from tests.prove.report import Part
from tests.prove.steps import Stepper
from tests.prove.test_apply import fork, killed

SEED = 20240601
MODEL = "slow_parcels"
ROWS = [
    {"depot": depot, "size": size, "weight_kg": 1.0 + n}
    for n, (depot, size) in enumerate((d, s) for d in training_repo.DEPOTS for s in ("s", "m", "l"))
]
NOTICED_SECONDS = 20.0


@dataclass
class World:
    """A server of three versions, and clients that ask it. ``right``: version -> what it answers to :data:`ROWS`."""

    repo: Repo
    url: str
    right: dict[int, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, client: httpx.Client, version: int | None = None) -> httpx.Response:
        """All rows, of the version that is served or of one."""
        path = f"/versions/{version}" if version else ""
        return client.post(f"{self.url}/v1/models/{MODEL}{path}:predict", json={"instances": ROWS})

    def go_on(self) -> None:
        """Ask until :attr:`ended`; what is not right is noted."""
        with httpx.Client(timeout=30) as client:
            while not self.ended.is_set():
                answer = self.ask(client)
                if answer.status_code != 200:
                    self.wrong.append(f"status {answer.status_code}: {answer.text[:200]}")
                else:
                    told = answer.json()
                    version = int(told["model"]["version"])
                    self.answered[version] += 1
                    if told["predictions"] != self.right[version]:
                        self.wrong.append(f"version {version} answered {told['predictions'][:3]}")
                self.ended.wait(0.05)

    def champion(self) -> int | None:
        """By the file."""
        return current(layout.model(self.repo.data, MODEL)).champion

    def served(self, version: int | None) -> float:
        """Seconds until the server answers by it."""
        begun = time.monotonic()
        with httpx.Client(timeout=30) as client:
            while int(self.ask(client).json().get("model", {}).get("version", 0)) != version:
                if time.monotonic() - begun > NOTICED_SECONDS:
                    self.wrong.append(f"version {version} is not served after {NOTICED_SECONDS:g} s")
                    break
                time.sleep(0.05)
        return time.monotonic() - begun

    def command(self, *words: str) -> Callable[[], Any]:
        """The command, for a fork."""

        def run() -> None:
            result = CliRunner().invoke(app, [words[0], "--repo", str(self.repo.path), *words[1:], "--reason", "a trial"])
            if result.exit_code:
                raise RuntimeError(f"{words}: {result.output[-500:]} {result.exception}")

        return run

    def audited(self) -> list[str]:
        """What is wrong with the audit log."""
        problem = AuditLog(layout.audit(self.repo.data)).check().problem
        return [f"audit log: {problem}"] if problem else []

    def trial(self, before: int, since: int) -> tuple[list[str], int]:
        """What went wrong since, and how many answers came."""
        wrong, self.wrong = self.wrong, []
        return wrong + self.audited(), sum(self.answered.values()) - since


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    def passed(repo: Repo, model: Any, candidate: registry.Candidate, say: Any = None) -> registry.Decision:
        return registry.Decision(candidate, (), (), (), None)

    monkeypatch.setattr(registry, "decide", passed)
    repo = registry_world.make(tmp_path)
    made = registry_world.training_set(repo)
    for version, quality in ((1, "good"), (2, "better"), (3, "bad")):
        register(repo, MODEL, registry_world.push(repo, version, quality, made))
    data = repo.data
    given = ServingSettings(
        feature_repo=repo.path,
        models=layout.models(data),
        graphs=layout.graphs(data),
        as_of=training_repo.END.astimezone(UTC) if training_repo.END.tzinfo else datetime.now(UTC),
        poll_seconds=0.2,
        keep_versions=3,
        timeout_seconds=30.0,
    )
    from feast import FeatureStore

    FeatureStore(repo_path=str(repo.path)).materialize(training_repo.START, training_repo.END)
    with ExitStack() as stack:
        _, port = stack.enter_context(served(given))
        made_world = World(repo, f"http://127.0.0.1:{port}")
        with httpx.Client(timeout=30) as client:
            until = time.monotonic() + NOTICED_SECONDS
            for version in (1, 2, 3):
                while (answer := made_world.ask(client, version)).status_code != 200:
                    assert time.monotonic() < until, answer.text
                    time.sleep(0.2)
                made_world.right[version] = answer.json()["predictions"]
        assert len({tuple(each) for each in made_world.right.values()}) == 3
        threads = [threading.Thread(target=made_world.go_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        yield made_world
        made_world.ended.set()
        for thread in threads:
            thread.join(60)


def test_promote_and_rollback_killed_at_random_moments(world: World, trials: int, report: Part) -> None:
    rng, problems = random.Random(SEED), []
    CliRunner().invoke(app, ["models", "--repo", str(world.repo.path)])  # imports, which forks need not do again
    most = 0.0
    for version in ("2", "3"):
        begun = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(fork(world.command("promote", "--version", version)), 0)[1]) == 0
        most = time.monotonic() - begun
    for name in ("promote", "rollback"):
        report.kind(f"kill -9 {name}, clients ask").runs += 1
    for number in range(2 * trials):
        name = ("promote", "rollback")[number % 2]
        if name == "rollback" and not any(v != world.champion() for v in current(layout.model(world.repo.data, MODEL)).champions):
            assert os.waitstatus_to_exitcode(os.waitpid(fork(world.command("promote", "--version", "2")), 0)[1]) == 0
        before, since, begun = world.champion(), sum(world.answered.values()), time.monotonic()
        assert before is not None
        others = [v for v in (1, 2, 3) if v != before]
        target = rng.choice(others) if name == "promote" else registry.rollback_to(world.repo, MODEL, None)[1]
        words = ("promote", "--version", str(target)) if name == "promote" else ("rollback",)
        hit, now = killed(fork(world.command(*words)), rng.uniform(0.3, 1.2) * most), world.champion()
        blow = time.monotonic()
        hit += ", moved" if now == target else ", not moved"
        wrong = [] if now in (before, target) else [f"champion is {now}: {before} was, {target} was to be"]
        world.served(now)
        recovery = time.monotonic() - blow
        more, answers = world.trial(before, since)
        wrong += more
        entry = report.kind(f"kill -9 {name}, clients ask")
        entry.trial(hit, answers * len(ROWS), wrong, time.monotonic() - begun, recovery=recovery, counts={"answers": answers})
        problems += [f"{name} {before} to {target}, {hit}: {line}" for line in wrong]
    assert not problems, "\n".join(problems[:20])


def test_promotions_at_once(world: World, trials: int, report: Part) -> None:
    rng, problems = random.Random(SEED + 1), []
    entry = report.kind("two promotions at once, clients ask")
    entry.runs += 1
    for _ in range(trials):
        before, since, begun = world.champion(), sum(world.answered.values()), time.monotonic()
        others = [v for v in (1, 2, 3) if v != before]
        history = len(current(layout.model(world.repo.data, MODEL)).history)
        pids = []
        for version in rng.sample(others, 2):
            pids.append(fork(world.command("promote", "--version", str(version))))
            time.sleep(rng.choice([0, rng.uniform(0, 0.3)]))
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        blow, now = time.monotonic(), current(layout.model(world.repo.data, MODEL))
        wins = codes.count(0)
        wrong = [] if wins in (1, 2) else [f"none of both was promoted: {codes}"]
        moves = [e for e in now.history[history:] if e.get("action") == "promote"]
        if len(moves) != wins or now.champion not in others:
            wrong.append(f"{wins} ended well, and the history has {len(moves)} promotions; champion is {now.champion}")
        chain = [before, *(e["champion"] for e in moves)]
        if any(e["before"]["champion"] != was for e, was in zip(moves, chain, strict=False)):
            wrong.append("a promotion was judged against another champion than the one that it replaced")
        world.served(now.champion)
        recovery = time.monotonic() - blow
        more, answers = world.trial(0, since)
        hit = "one wins, the other is told" if wins == 1 else "one after the other"
        entry.trial(hit, answers * len(ROWS), wrong + more, time.monotonic() - begun, recovery=recovery, counts={"answers": answers})
        problems += [f"{hit}: {line}" for line in wrong + more]
    assert not problems, "\n".join(problems[:20])


def test_promote_and_rollback_killed_at_each_step(world: World, report: Part, tmp_path: Path) -> None:
    """Before each call that changes what others see, and within each write; a server serves, clients ask, and the command is run again."""
    problems, where = [], ["--repo", str(world.repo.path), "--reason", "a trial"]
    with closing(Stepper(tmp_path / "steps", promotes=True)) as stepper:
        for name in ("promote", "rollback"):
            entry = report.kind(f"kill -9 {name} at each step, clients ask")
            entry.runs += 1
            for half_of in (False, True):
                for at in count(1):
                    before, since, begun = world.champion(), sum(world.answered.values()), time.monotonic()
                    assert before is not None
                    if name == "promote":
                        target = 2 if before != 2 else 1
                        words = ["promote", "--version", str(target)]
                    else:
                        if not any(v != before for v in current(layout.model(world.repo.data, MODEL)).champions):
                            stepper.run("promote", "--version", str(3 - before), *where)
                            before = 3 - before
                        target = registry.rollback_to(world.repo, MODEL, None)[1]
                        words = ["rollback", "--to", str(target)]
                    words += where
                    code, _ = stepper.run(*words, at=at, half=half_of)
                    if code == 0:  # it had no more steps
                        break
                    wrong, now = [f"the exit code is {code}"] if code != -signal.SIGKILL else [], world.champion()
                    wrong += [] if now in (before, target) else [f"champion is {now}: {before} was, {target} was to be"]
                    wrong += world.audited()
                    blow = time.monotonic()
                    if name == "promote" or now == before:
                        code, _ = stepper.run(*words)
                        wrong += [f"the second {name} ends with {code}: {stepper.said()}"] if code else []
                    if world.champion() != target:
                        wrong.append(f"after the second {name} champion is {world.champion()}, not {target}")
                    world.served(target)
                    recovery = time.monotonic() - blow
                    more, answers = world.trial(before, since)
                    hit = f"{'within a write' if half_of else 'before a step'}, {'moved' if now == target else 'not moved'}"
                    counts = {"answers": answers}
                    entry.trial(hit, answers * len(ROWS), wrong + more, time.monotonic() - begun, recovery=recovery, counts=counts)
                    problems += [f"{name} {before} to {target}, {hit} {at}: {line}" for line in wrong + more]
                assert at > (2 if half_of else 8)
    assert not problems, "\n".join(problems[:20])
