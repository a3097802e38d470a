"""``tandem serve``: predictions and online features over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import DEFAULT_REPO, DataOption, RepoOption, moment, quiet
from pipelines.lake import layout
from transforms.errors import ConfigError


def serve(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 8500; 0: a free one).")] = None,
    as_of: Annotated[str | None, typer.Option(help="Answer as if it were this moment (UTC), over replayed history.")] = None,
    clock: Annotated[
        Path | None, typer.Option(help="Take the time from this file of tandem replay (DATA/replay/clock.json), while it is there.")
    ] = None,
) -> None:
    """Serve predictions and online features over HTTP."""
    quiet()
    from pydantic import ValidationError

    from pipelines.project.config import load_settings
    from serving.settings import ServingSettings

    repo = repo.resolve()
    settings = load_settings(repo, data=data.resolve() if data else None)
    given = {"host": host, "port": port, "as_of": moment("--as-of", as_of) if as_of else None, "clock": clock and clock.resolve()}
    try:
        chosen = ServingSettings(
            feature_repo=repo,
            models=layout.models(settings.data),
            graphs=layout.graphs(settings.data),
            **{**settings.serve, "request_log": settings.request_log(repo), **{k: v for k, v in given.items() if v is not None}},
        )
    except (ValidationError, TypeError) as error:
        first = (
            error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("settings",), "msg": str(error), "input": settings.serve}
        )
        raise ConfigError(f"serve.{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r}); correct it") from None
    from pipelines.lake.processes import become, module_command
    from pipelines.project.recording import ProjectRef, hand_over

    hand_over(ProjectRef(repo, settings, settings.data), "serve", serving=chosen.model_dump(mode="json"))
    # The server is a process of its own that never loads Beam or the pipelines; it takes this one's place.
    become(module_command("serving", chosen.model_dump_json()))
