"""Each command that roles guard, as its user runs it: without the role nothing changes and one line says so, with it it goes, and who, when
and why stand in the audit log; ``tandem audit`` reads them, and finds what was tampered with. Issue 13, section 2."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import root
from pipelines.lake import layout, runs
from pipelines.lake.audit import AuditLog, user
from pipelines.registry.alias_file import change, current
from pipelines.registry.register import register
from tests.integration import registry_world
from tests.integration.stream_world import make_stream_world

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
MODEL = "slow_parcels"
SUBJECT = "zone=zone-to-be-forgotten"
WHY = "ticket 4711"


@dataclass
class Done:
    """How a command ended."""

    code: int
    lines: list[str]


def _hash(path: Path) -> str:
    """Of a database by what it holds: a reader may move its log into its file."""
    if path.suffix == ".db" and path.read_bytes().startswith(b"SQLite format"):
        with closing(sqlite3.connect(path)) as db:
            return hashlib.sha256("".join(db.iterdump()).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class World:
    """A repository, and a way to run commands on it as the command line does."""

    path: Path
    data: Path
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = yaml.safe_load((self.path / "tandem.yaml").read_text())
        for of_a_process in ("_own_files_only", "quicken_imports"):  # and this process goes on
            self.patch.setattr(root, of_a_process, lambda: None)

    def roles(self, *actions: str) -> None:
        """Whoever runs this has a role that allows these, and nothing else."""
        access = {"roles": {"mine": list(actions), "admin": ["*"]}, "members": {user(): ["mine"], "carol": ["admin"]}}
        (self.path / "tandem.yaml").write_text(json.dumps({**self.settings, "access": access}))

    def run(self, *words: str) -> Done:
        """A command, with the entry point of ``tandem``."""
        self.capsys.readouterr()
        self.patch.setattr("sys.argv", ["tandem", *words, "--repo", str(self.path)])
        with pytest.raises(SystemExit) as ended:
            root.main()
        return Done(int(ended.value.code or 0), self.capsys.readouterr().err.splitlines())

    def state(self) -> dict[str, str]:
        """Every file of the data folder but the audit log, by its hash; locks are empty files that anybody may make."""
        found = (
            p
            for p in self.data.rglob("*")
            if p.is_file() and p.stat().st_size and layout.audit(self.data) not in p.parents and p.name != ".audit"
        )
        return {p.relative_to(self.data).as_posix(): _hash(p) for p in found if not p.name.endswith(("-wal", "-shm"))}

    def entries(self) -> list[dict[str, Any]]:
        found = AuditLog(layout.audit(self.data)).check()
        assert not found.problem
        return [e.to_dict() for e in found.entries]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose model has three versions, the first two of them champions in turn."""
    folder = tmp_path_factory.mktemp("access")
    repo = registry_world.make(folder)
    made = registry_world.training_set(repo)
    for version, quality in ((1, "good"), (2, "better"), (3, "bad")):
        register(repo, MODEL, registry_world.push(repo, version, quality, made))
    return Path(repo.path)


@pytest.fixture
def models(versions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    data = Path(yaml.safe_load((versions / "tandem.yaml").read_text())["data"])
    text = (versions / "tandem.yaml").read_text()
    folder = layout.model(data, MODEL)
    change(folder, "promote", lambda before: (1, 3), datetime.now(UTC))
    yield ready(World(versions, data, monkeypatch, capsys))
    (versions / "tandem.yaml").write_text(text)
    (folder / "ALIASES.json").unlink()
    for version in (1, 2, 3):
        change(folder, "register", lambda before: (before.champion or 1, before.challenger), datetime.now(UTC), version=version)
    shutil.rmtree(layout.audit(data), ignore_errors=True)
    (data / ".audit").unlink(missing_ok=True)  # which would miss it


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    """One with groups whose graphs need no history, an old run, a subject, and a stream."""
    made = make_stream_world(tmp_path / "world")
    made.stream.mkdir(parents=True)
    old = runs.begin(made.data, "batch", {"n": 1}, datetime.now(UTC) - timedelta(days=400))
    old.save(status="complete", fingerprints={"zones": "0" * 64})
    events = made.data / "events" / "trips" / "a.jsonl"
    events.parent.mkdir(parents=True)
    events.write_text('{"trip": "t1", "zone": "zone-to-be-forgotten", "at": 1700000000000000}\n{"trip": "t2", "zone": "z1", "at": 1}\n')
    (made.path / "features.py").write_text((made.path / "features.py").read_text().replace("topic=", 'files="events/trips", topic='))
    return ready(World(made.path, made.data, monkeypatch, capsys))


def ready(world: World) -> World:
    world.patch.setattr(root, "leave", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    return world


def champion(world: World) -> int | None:
    return current(layout.model(world.data, MODEL)).champion


# Command -> (the world, words, roles that it needs, the action and subject in the audit log, whether it was done).
COMMANDS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, str], Callable[[World], bool]]] = {
    "promote": ("models", ("promote", "--version", "2"), ("promote",), ("promote", MODEL), lambda w: champion(w) == 2),
    "promote-force": (
        "models", ("promote", "--version", "3", "--force"), ("promote", "force"), ("promote", MODEL), lambda w: champion(w) == 3,
    ),
    "rollback": ("models", ("rollback", "--to", "2"), ("rollback",), ("rollback", MODEL), lambda w: champion(w) == 2),
    "rollback-force": (
        "models", ("rollback", "--to", "2", "--force"), ("rollback", f"force:{MODEL}"), ("rollback", MODEL), lambda w: champion(w) == 2,
    ),
    "apply": (
        "stream", ("apply",), ("apply",), ("apply", "no run"), lambda w: any(r.kind == "apply" for r in runs.list_runs(w.data)),
    ),
    "erase": (
        "stream", ("erase", "--entity", SUBJECT), ("erase",), ("erase", ""),
        lambda w: "forgotten" not in (w.data / "events/trips/a.jsonl").read_text(),
    ),
    "vacuum": (
        "stream", ("vacuum", "--older-than", "30d", "--keep-last", "0"), ("vacuum",), ("vacuum", ""),
        lambda w: not any(r.kind == "batch" for r in runs.list_runs(w.data)),
    ),
    "skip": (
        "stream", ("stream", "skip", "trips/0/7"), ("skip:trips/*",), ("skip", "trips/0/7"),
        lambda w: (w.data / "stream/main/skipped.jsonl").exists(),
    ),
}  # fmt: skip


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Any:
    which, words, roles, told, done = COMMANDS[request.param]
    world: World = request.getfixturevalue(which)
    if request.param.startswith("rollback"):  # there is one to go back to
        change(layout.model(world.data, MODEL), "promote", lambda before: (2, 3), datetime.now(UTC))
        change(layout.model(world.data, MODEL), "promote", lambda before: (1, 3), datetime.now(UTC))
    if request.param == "apply":
        shutil.rmtree(layout.runs(world.data))
    return world, words, roles, told, done


ALL = ("apply", "promote", "rollback", "force", "erase", "vacuum", "skip")


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_without_the_role_nothing_changes_and_one_line_says_so(command: Any) -> None:
    world, words, roles, (action, subject), done = command
    for missing in roles:
        lacking = missing.partition(":")[0]
        world.roles(*(a for a in ALL if a != lacking))
        before = world.state()
        told = world.run(*words, "--reason", WHY)
        assert told.code == 1 and len(told.lines) == 1, told
        assert f"{user()} is not allowed to {lacking}" in told.lines[0] and "tandem.yaml" in told.lines[0]
        assert world.state() == before and not done(world)
        last = world.entries()[-1]
        assert (last["action"], last["outcome"], last["why"], last["who"]) == (action, "denied", WHY, user())
        assert subject in last["subject"]


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_with_the_role_and_a_reason_it_goes_and_is_written_down(command: Any) -> None:
    world, words, roles, (action, subject), done = command
    world.roles(*roles)
    before = world.state()
    if "--force" not in words and words[:2] != ("stream", "skip"):
        told = world.run(*words)
        assert told.code == 1 and len(told.lines) == 1 and f"{action} requires --reason '...'" in told.lines[0], told
        assert world.run(*words, "--reason", "  ").code == 1
        assert world.state() == before and not done(world) and world.entries() == []
    since = datetime.now(UTC)
    told = world.run(*words, "--reason", WHY)
    assert told.code == 0 and done(world), told
    begun, ended = world.entries()[-2:]
    assert begun["outcome"] == "begun" and ended["of"] == begun["n"] and ended["outcome"] not in ("failed", "refused", "denied")
    for entry in (begun, ended):
        assert (entry["action"], entry["why"], entry["who"]) == (action, WHY, user()) and subject in entry["subject"]
        assert since <= datetime.fromisoformat(entry["at"]) <= datetime.now(UTC)
        assert bool(entry.get("forced")) == ("--force" in words)
    assert "forgotten" not in json.dumps(world.entries())


@pytest.mark.parametrize(("words", "kept"), [(("vacuum", "--older-than", "30d"), "batch"), (("erase", "--entity", SUBJECT), "erase")])
def test_a_dry_run_needs_no_role_and_changes_nothing(stream: World, words: tuple[str, ...], kept: str) -> None:
    stream.roles("skip")
    before = stream.state()
    assert stream.run(*words, "--dry-run").code == 0
    assert stream.state() == before and stream.entries() == []


def test_without_roles_a_reason_is_asked_for_by_force_alone(models: World) -> None:
    assert models.run("promote", "--version", "2").code == 0 and champion(models) == 2
    told = models.run("promote", "--version", "3", "--force")
    assert told.code == 1 and "--force requires --reason" in told.lines[0]


def test_audit_shows_who_when_and_why_and_finds_what_was_tampered_with(stream: World) -> None:
    stream.roles(*ALL)
    assert stream.run("stream", "skip", "trips/0/7", "--reason", WHY).code == 0
    assert stream.run("vacuum", "--older-than", "30d", "--reason", "the disk is small").code == 0
    stream.patch.setattr("sys.argv", ["tandem", "audit", "--json", "--repo", str(stream.path)])
    stream.capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        root.main()
    shown = json.loads(stream.capsys.readouterr().out)
    assert not ended.value.code and not shown["problem"]
    told = [(e["action"], e["outcome"], e["why"], e["who"]) for e in shown["entries"]]
    assert told == [(a, o, w, user()) for a, w in (("skip", WHY), ("vacuum", "the disk is small")) for o in ("begun", "done")]
    file = AuditLog(layout.audit(stream.data)).file
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for tampered in (
        whole.replace(WHY.encode(), b"ticket 4712"),
        whole.replace(user().encode(), b"mallory"),
        b"".join(lines[1:]),
        b"".join([lines[0], *lines[2:]]),
        b"".join(lines[:-1]),
        b"".join([*lines, lines[-1]]),
        b"".join([lines[1], lines[0], *lines[2:]]),
    ):
        assert tampered != whole
        file.write_bytes(tampered)
        told_of = stream.run("audit")
        assert told_of.code == 1 and len(told_of.lines) == 1 and "the audit log was tampered with or damaged" in told_of.lines[0], told_of
    file.write_bytes(whole)
    assert stream.run("audit").code == 0


def test_every_action_of_the_roles_has_a_command_here() -> None:
    from pipelines.project.access_settings import ACTIONS

    assert {role.partition(":")[0] for _, _, roles, _, _ in COMMANDS.values() for role in roles} == set(ACTIONS) == set(ALL)
