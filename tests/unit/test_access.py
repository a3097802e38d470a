"""Roles: who may promote, roll back, apply, force, erase; and what the audit log says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.lake import layout
from pipelines.lake.audit import AuditLog, user
from pipelines.project.access_settings import AccessSettings
from pipelines.project.config import load_settings
from pipelines.project.permissions import AccessDenied, guarded, may
from transforms.errors import ConfigError

ROLES = {
    "releaser": ["promote", "rollback"],
    "delays": ["promote:delay", "promote:delay-*"],
    "admin": ["*"],
    "operator": ["skip:orders/*"],
}
MEMBERS = {"erin": ["operator"], "ann": ["releaser"], "bob": ["delays"], "carol": ["admin"], "group:ops": ["releaser"]}
ACCESS = AccessSettings(roles=ROLES, members=MEMBERS)


@pytest.mark.parametrize(
    ("subjects", "action", "subject", "allowed"),
    [
        (["ann"], "promote", "delay", True),
        (["ann"], "rollback", "anything", True),
        (["ann"], "force", "delay", False),
        (["ann"], "apply", "", False),
        (["ann"], "erase", "origin=JFK", False),
        (["bob"], "promote", "delay", True),
        (["bob"], "promote", "delay-eu", True),
        (["bob"], "promote", "price", False),
        (["bob"], "promote", "", False),
        (["bob"], "rollback", "delay", False),
        (["carol"], "erase", "origin=JFK", True),
        (["carol"], "force", "delay", True),
        (["carol"], "apply", "batch-1", True),
        (["carol"], "skip", "orders/0/17", True),  # casbin's globs stop at a slash: nobody could skip a record
        (["carol"], "promote", "a/b\nc", True),
        (["ann"], "promote", "eu/delay", True),
        (["bob"], "promote", "delay-eu/west", True),
        (["bob"], "promote", "Delay", False),
        (["bob"], "promote", "delay:x", False),
        (["bob"], "skip", "orders/0/17", False),
        (["erin"], "skip", "orders/0/17", True),
        (["erin"], "skip", "orders.eu/0/17", False),
        (["erin"], "promote", "delay", False),
        (["dave", "group:ops", "*"], "promote", "delay", True),
        (["dave", "group:other", "*"], "promote", "delay", False),
        (["releaser"], "promote", "delay", False),
        (["role:releaser"], "promote", "delay", False),
        (["*"], "promote", "delay", False),
    ],
)
def test_roles_decide(subjects: list[str], action: str, subject: str, allowed: bool) -> None:
    assert may(ACCESS, subjects, action, subject) is allowed


def test_everybody_and_nobody() -> None:
    assert may(AccessSettings(), ["x"], "erase", "y"), "no roles: as before"
    everybody = AccessSettings(roles={"r": ["apply"]}, members={"*": ["r"]})
    assert may(everybody, ["x", "*"], "apply", "run") and not may(everybody, ["x", "*"], "promote", "m")
    assert not may(AccessSettings(roles={"r": ["*"]}), ["x", "*"], "apply"), "roles that nobody has"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("access: {roles: {r: [promot]}}", "'promot', which is not an action; actions are apply, promote"),
        ("access: {roles: {r: [promote]}, members: {ann: [s]}}", "member 'ann' has the role 's'"),
        ("access: {rolls: {}}", "known keys: roles, members"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "tandem.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def place(tmp_path: Path, **members: list[str]) -> Any:
    return SimpleNamespace(settings=SimpleNamespace(access=AccessSettings(roles=ROLES, members=members)), data=tmp_path)


def entries(tmp_path: Path) -> list[tuple[str, str, str]]:
    found = AuditLog(layout.audit(tmp_path)).check()
    assert not found.problem
    return [(e.action, e.outcome, e.why) for e in found.entries]


def test_what_is_done_refused_denied_and_failed_is_written_down(tmp_path: Path) -> None:
    mine = place(tmp_path, **{user(): ["releaser"]})
    with guarded(mine, "promote", "delay", "better") as act:
        act.details["champion"] = 3
    with (
        pytest.raises(AccessDenied, match=f"{user()} is not allowed to apply run-1: no role in tandem.yaml"),
        guarded(mine, "apply", "run-1"),
    ):
        raise AssertionError("the body of what is denied never runs")
    with pytest.raises(AccessDenied, match="is not allowed to force delay"), guarded(mine, "promote", "delay", "I want to", force=True):
        raise AssertionError("the body of what is denied never runs")

    def refuse() -> None:
        with guarded(mine, "rollback", "delay", "slow") as act:
            act.outcome = "refused"
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        refuse()
    with pytest.raises(ValueError, match="disk"), guarded(mine, "rollback", "delay", "slow"):
        raise ValueError("the disk is full")
    assert entries(tmp_path) == [
        ("promote", "begun", "better"), ("promote", "done", "better"), ("apply", "denied", ""), ("promote", "denied", "I want to"),
        ("rollback", "begun", "slow"), ("rollback", "refused", "slow"), ("rollback", "begun", "slow"), ("rollback", "failed", "slow"),
    ]  # fmt: skip
    last = AuditLog(layout.audit(tmp_path)).check().entries
    assert last[-1].error == "the disk is full" and last[1].details["champion"] == 3 and last[1].of == 1


def test_where_there_are_roles_each_action_says_why(tmp_path: Path) -> None:
    mine = place(tmp_path, **{user(): ["admin"]})
    for why in ("", "  \n"):
        with pytest.raises(ConfigError, match=r"apply requires --reason '\.\.\.'"), guarded(mine, "apply", "run-1", why):
            raise AssertionError("the body never runs")
    with pytest.raises(AccessDenied), guarded(place(tmp_path), "apply", "run-1"):
        raise AssertionError("who may not is told that first")
    anybody = SimpleNamespace(settings=SimpleNamespace(access=AccessSettings()), data=tmp_path / "other")
    with guarded(anybody, "apply", "run-1"):
        pass
    assert entries(tmp_path) == [("apply", "denied", "")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TANDEM_ACCESS", '{"members": {"*": ["admin"]}}'),
        ("TANDEM_ACCESS__MEMBERS", '{"*": ["admin"]}'),
        ("tandem_access__members__mallory", '["admin"]'),
        ("TANDEM_ACCESS__ROLES", "{}"),
    ],
)
def test_nobody_gives_themselves_a_role_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Issue 13, section 2: roles stand in tandem.yaml; the environment is the caller's own."""
    (tmp_path / "tandem.yaml").write_text("data: data\naccess: {roles: {admin: ['*']}, members: {carol: [admin]}}\n")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"TANDEM_ACCESS in the environment: roles can only be set in tandem.yaml"):
        load_settings(tmp_path)
