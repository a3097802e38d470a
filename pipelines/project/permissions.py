"""Who may do what, and that it is written down: around whatever changes what is served, or takes data away.

``access`` in ``tandem.yaml`` gives roles their actions and members their roles; casbin decides. Without it everybody who reaches the
data folder may do everything, as before. Either way each action has its entries in the audit log (:mod:`pipelines.lake.audit`). This
guards commands, not files: who may write to the data folder can change it without them, and the folder's permissions are the wall.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from pipelines.lake import layout
from pipelines.lake.audit import AuditLog, user
from pipelines.project.access_settings import AccessSettings
from transforms.errors import ConfigError, TandemError

__all__ = ["AccessDenied", "Act", "guarded", "may"]

_MODEL = """
[request_definition]
r = sub, act

[policy_definition]
p = sub, act

[role_definition]
g = _, _

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = g(r.sub, p.sub) && names(r.act, p.act)
"""


class AccessDenied(TandemError):
    """The roles of ``tandem.yaml`` do not allow it."""


class Place(Protocol):
    """A repository, or what of it is needed."""

    @property
    def settings(self) -> Any: ...
    @property
    def data(self) -> Path: ...


@dataclass
class Act:
    """An action under way; ``outcome`` and ``details`` go into its last entry."""

    outcome: str = "done"
    details: dict[str, Any] = field(default_factory=dict)


def _subjects() -> list[str]:
    """The names under which this process's user may be a member: its own, ``group:<name>`` for each group, and ``*``."""
    groups = []
    for number in {os.getgid(), *os.getgroups()}:
        try:
            groups.append(f"group:{grp.getgrgid(number).gr_name}")
        except KeyError:
            continue
    return [user(), *sorted(groups), "*"]


def may(access: AccessSettings, subjects: list[str], action: str, subject: str = "") -> bool:
    """Whether one of the members ``subjects`` may do ``action`` (to ``subject``, e.g. a model's name)."""
    if not access.roles:
        return True
    import casbin

    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=_MODEL))
    enforcer.add_function("names", fnmatchcase)  # casbin's own globs stop at a slash, which the place of a record has two of
    for role, actions in access.roles.items():
        for pattern in actions:
            for each in (pattern, f"{pattern}:*") if ":" not in pattern else (pattern,):
                enforcer.add_policy(f"role:{role}", each)
    for member, roles in access.members.items():
        for role in roles:
            enforcer.add_grouping_policy(f"member:{member}", f"role:{role}")
    asked = f"{action}:{subject}" if subject else action
    return any(enforcer.enforce(f"member:{each}", asked) for each in subjects)


@contextmanager
def guarded(place: Place, action: str, subject: str = "", why: str = "", *, force: bool = False, **details: Any) -> Iterator[Act]:
    """Do ``action`` in the body, if the user may (with ``force``: may ``force`` too); entries before and after it in the audit log.

    Raises AccessDenied, which is logged as well, and ConfigError where there are roles and it is not said ``why``.
    """
    log = AuditLog(layout.audit(place.data))
    about = {"action": action, "subject": subject, "why": why, **({"forced": True} if force else {}), **details}
    subjects = _subjects()
    for needed in (action, *(("force",) if force else ())):
        if not may(place.settings.access, subjects, needed, subject):
            log.append(datetime.now(UTC), {**about, "outcome": "denied"})
            target = f" {subject}" if subject else ""
            raise AccessDenied(
                f"{subjects[0]} is not allowed to {needed}{target}: no role in tandem.yaml (access) grants it; ask an"
                " owner, or change the roles"
            )
    if place.settings.access.roles and not why.strip():
        raise ConfigError(
            f"{action} requires --reason '...': tandem.yaml defines roles (access), and the audit log records the reason of each action"
        )
    begun = log.append(datetime.now(UTC), {**about, "outcome": "begun"})
    act = Act()
    try:
        yield act
    except BaseException as error:
        if act.outcome == "done":
            act.outcome = "failed"
        said = {} if act.outcome != "failed" else {"error": (str(error).splitlines() or [type(error).__name__])[0][:300]}
        log.append(datetime.now(UTC), {**about, **act.details, **said, "outcome": act.outcome, "of": begun.n})
        raise
    log.append(datetime.now(UTC), {**about, **act.details, "outcome": act.outcome, "of": begun.n})
