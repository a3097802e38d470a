"""``tandem serve``: predictions and online features over HTTP."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from pipelines.cli.console import DEFAULT_REPO, DataOption, RepoOption, load, moment, quiet
from pipelines.lake import layout, shared
from pipelines.project.config import load_settings
from pipelines.project.settings_errors import mistake
from transforms.errors import ConfigError, TandemError
from transforms.own_program import module_command

_FILES = ("keys", "tls_cert", "tls_key", "tls_client_ca")


def serve(
    repo: RepoOption = DEFAULT_REPO,
    data: DataOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 8500; 0: a free one).")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of worker processes (default 1).")] = None,
    as_of: Annotated[str | None, typer.Option(help="Serve as of this time (UTC), for historical data.")] = None,
    clock: Annotated[
        Path | None, typer.Option(help="Take the time from this clock file of tandem replay (DATA/replay/clock.json), while it exists.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="TLS certificate (PEM); reloaded when it changes.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of the TLS certificate (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="CA bundle (PEM) for client certificates; the certificate's subject identifies the caller.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen on a non-local address without authentication.")] = False,
) -> None:
    """Serve predictions and online features over HTTP.

    A non-local --host requires API keys (tandem keys add), OIDC tokens (serve.oidc) or client certificates, unless --insecure is given.
    """
    quiet()
    from pipelines.lake.graphs import applying
    from serving.settings import ServingSettings

    repo = repo.resolve()
    settings = load_settings(repo, data=data.resolve() if data else None)
    given = {
        "host": host,
        "port": port,
        "workers": workers,
        "as_of": moment("--as-of", as_of) if as_of else None,
        "clock": clock and clock.resolve(),
        "insecure": insecure or None,
    }
    # Paths of tandem.yaml are relative to it, those of flags to where we are.
    named = {name: settings.serve[name] for name in _FILES if settings.serve.get(name)}
    files = {name: repo / place if isinstance(place, str) else place for name, place in named.items()}
    files |= {n: p.resolve() for n, p in (("tls_cert", tls_cert), ("tls_key", tls_key), ("tls_client_ca", tls_client_ca)) if p is not None}
    try:
        chosen = ServingSettings(
            feature_repo=repo,
            models=layout.models(settings.data),
            graphs=layout.graphs(settings.data),
            **{
                "needs_model": bool(settings.models),
                "keys": layout.api_keys(settings.data),
                **settings.serve,
                **files,
                "request_log": settings.request_log(repo),
                **{k: v for k, v in given.items() if v is not None},
            },
        )
    except ValidationError as error:
        raise ConfigError(f"serve.{mistake(ServingSettings, error)}") from None
    except TypeError as error:  # a key that is not the repository's to set
        raise ConfigError(f"serve: {error}; remove the setting") from None
    if "keys" in named and not chosen.asks_who:  # who names a file means it: one that is not mounted is no open door
        raise ConfigError(
            f"serve.keys {str(chosen.keys)!r} does not exist, so the server would be open to everybody; create it ('tandem keys add NAME'),"
            " correct the path, or remove the setting"
        )
    chosen.exposure()
    chosen = chosen.model_copy(update={"ask_who": chosen.asks_who})  # decided here, once: the file could go before the server looks
    if applying(settings.data) is not None or shared.is_shared(settings.data):
        _finish(repo, data)
    from pipelines.lake.processes import become
    from pipelines.project.recording import ProjectRef, hand_over

    try:
        hand_over(ProjectRef(repo, settings, settings.data), "serve", serving=chosen.model_dump(mode="json"))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        typer.echo(f"{error.filename or settings.data} is not writable: 'tandem runs' will not list this server", err=True)
    # The server is a process of its own that never loads Beam or the pipelines; it takes this one's place.
    become(module_command("serving", chosen.model_dump_json()))


def _finish(repo: Path, data: Path | None) -> None:
    """Complete an apply that was killed: the server reads registry and online store. One that cannot be completed now (the store is away,
    or the folder read-only) is told of, here and by the server's readiness; it is no reason not to serve what is there."""
    try:
        load(repo, data)
    except TandemError as error:
        typer.echo(f"warning: {error}", err=True)
