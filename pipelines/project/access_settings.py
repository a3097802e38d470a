"""The section ``access`` of the settings: roles, what they allow, and who has them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ACTIONS", "AccessSettings"]

ACTIONS = ("apply", "promote", "rollback", "force", "erase", "vacuum", "skip")
"""What roles allow."""


class AccessSettings(BaseModel):
    """Who may do what; without roles everybody may do everything. See :mod:`pipelines.project.permissions`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    roles: dict[str, list[str]] = Field(default_factory=dict)
    """Role -> what it allows: ``promote``, ``promote:<model>`` (with ``*`` for any part), ``*``."""
    members: dict[str, list[str]] = Field(default_factory=dict)
    """User, ``group:<group of the system>`` or ``*`` (everybody) -> roles."""

    @model_validator(mode="after")
    def _known(self) -> AccessSettings:
        for role, actions in self.roles.items():
            for action in actions:
                if action.partition(":")[0] not in (*ACTIONS, "*"):
                    raise ValueError(f"role {role!r} allows {action!r}, which is not an action; actions are {', '.join(ACTIONS)} and *")
        for member, roles in self.members.items():
            if unknown := [role for role in roles if role not in self.roles]:
                raise ValueError(f"member {member!r} has the role {unknown[0]!r}, which access.roles does not have")
        return self
