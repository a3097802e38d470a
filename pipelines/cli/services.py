"""``tandem up``, ``down``, ``status``: the local services, without containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from pipelines.cli.console import DEFAULT_REPO, DataOption, JsonOption, RepoOption, Steps, settings_of, show

if TYPE_CHECKING:
    from pipelines.services.local import ServiceStatus

__all__ = ["down", "status", "up"]

PortOption = Annotated[
    int,
    typer.Option(min=0, max=65535, show_default=False, help="Port (default: the previous one if it is free, else any free port)."),
]


def up(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    redis: Annotated[bool, typer.Option("--redis", help="Also start redis-server.")] = False,
    kafka_port: PortOption = 0,
    redis_port: PortOption = 0,
    json_: JsonOption = False,
) -> None:
    """Start the local services: a Kafka broker and, with --redis, a redis-server. Does nothing if they are running."""
    from pipelines.services import local

    folder, steps = settings_of(repo, data).data, Steps()
    with steps.doing("starting services"):
        local.up(folder, with_redis=redis, kafka_port=kafka_port, redis_port=redis_port, say=steps.say)
    if json_:
        show(_said(local.status(folder)), True)


def down(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Also delete their data: all topics and keys.")] = False,
) -> None:
    """Stop the local services; their data is kept for the next 'tandem up'."""
    from pipelines.services import local

    steps = Steps()
    with steps.doing("stopping services"):
        if not local.down(settings_of(repo, data).data, delete=delete, say=steps.say):
            steps.say("no services are running")


def status(repo: RepoOption = DEFAULT_REPO, data: DataOption = None, json_: JsonOption = False) -> None:
    """Show the local services, their state and their addresses."""
    from pipelines.services import local

    found = local.status(settings_of(repo, data).data)
    table = Table("service", "state", "address", "pid", Column("since", no_wrap=True), box=None)
    for service, at in found.items():
        table.add_row(service, at.state, at.address, "" if at.pid is None else str(at.pid), at.since)
    table.caption = "\n".join(f"{service}: {at.detail}" for service, at in found.items() if at.detail) or None
    show(_said(found), json_, lambda: table)


def _said(found: Mapping[str, ServiceStatus]) -> dict[str, Any]:
    return {service: at.to_dict() for service, at in found.items()}
