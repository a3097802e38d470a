"""The process that serves: where it listens, by TLS or not, and that it does not listen to strangers by accident."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from serving import json_logs
from serving.app import create_app
from serving.certificate import authorities_warning, certificate_warning, parts_of
from serving.connections import Connections, Limited, connection_class
from serving.model_repository import Watcher
from serving.settings import ServingSettings
from serving.shared_buckets import SharedLimits
from serving.workers import Worker, bound, end_with_parent, run_workers, share
from transforms.errors import ConfigError

__all__ = ["Reload", "run", "uvicorn_config"]

log = logging.getLogger("tandem.serving")

_BACKLOG = 128
"""Connections that wait to be taken. They are taken all at once, so it is also how far their number may pass its limit for a moment."""


_OBJECTS = 20_000
"""New lists and the like between two looks for garbage; Python's own: 700, which the answers of Redis to a few requests are."""
_TURN_SECONDS = 0.001
"""How long a thread (of the request log, say) may keep the interpreter while the event loop waits for it; Python's own: 0.005."""


def run(settings: ServingSettings, worker: Worker | None = None) -> None:
    """Serve until interrupted; requests under way are finished first. Raises ConfigError.

    With several workers this process begins them, and answers nothing itself; ``worker`` says that this one is such a one.
    """
    warning = settings.exposure()
    settings = settings.model_copy(update={"ask_who": settings.asks_who})  # for the workers that begin later, too
    if worker is None and settings.workers > 1:
        _run_all(settings, warning)
        return
    if worker is None:
        bound(settings).close()  # said before models are loaded, and in one line
    config, connection = uvicorn_config(settings) if worker is None else _worker_config(settings, worker)
    if warning and worker is None:
        logging.getLogger("uvicorn.error").warning(warning)
    watcher = None
    if connection.tls is not None:
        reload = Reload(settings, connection)
        reload.tell()
        watcher = Watcher(reload.look, settings.poll_seconds)
        watcher.start()
    try:
        server = _Server(config)
        server.run(None if worker is None else [socket.socket(fileno=worker.listener)])
        if not server.started:
            raise SystemExit(3)
    finally:
        if watcher is not None:
            watcher.close()


class _Server(uvicorn.Server):
    """uvicorn's, in a process that is a server's own."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and keep what would hold up answers from doing so."""
        await super().startup(sockets)
        if self.should_exit and self.started:  # by a signal meanwhile: uvicorn would return without the end of the application
            await self.shutdown(sockets)
            return
        # What is loaded by now stays: a look through all of it for garbage takes a tenth of a second, during which nobody is answered.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_OBJECTS)
        sys.setswitchinterval(_TURN_SECONDS)


def _run_all(settings: ServingSettings, warning: str) -> None:
    uvicorn_config(settings.model_copy(update={"port": 0}), app=_nothing)  # sets up the log; a bad certificate is told once, and here
    said = logging.getLogger("uvicorn.error")
    if warning:
        said.warning(warning)

    def say(host: str, port: int) -> None:
        scheme, place = "http" if settings.tls_cert is None else "https", f"[{host}]" if ":" in host else host
        said.info("Uvicorn running on %s://%s:%d (Press CTRL+C to quit), %d workers", scheme, place, port, settings.workers)

    run_workers(settings, say, _BACKLOG)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never asked."""


def _worker_config(settings: ServingSettings, worker: Worker) -> tuple[uvicorn.Config, type[Limited]]:
    end_with_parent(worker)
    own = share(settings)
    limits = SharedLimits(worker.limits, settings.limits, settings.principal_limits)
    config, connection = uvicorn_config(own, create_app(own, limits=limits, metrics_folder=(Path(worker.metrics), worker.name)))
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # that each begins and ends is nobody's news
    return config, connection


def uvicorn_config(settings: ServingSettings, app: Any = None) -> tuple[uvicorn.Config, type[Limited]]:
    """How uvicorn serves the application of these settings, and its protocol, which has its TLS, if any. Raises ConfigError."""
    connection = connection_class(Connections.of(settings))
    config = uvicorn.Config(
        app or create_app(settings),
        host=settings.host,
        port=settings.port,
        http=connection,
        loop="auto" if settings.tls_cert is None else "asyncio",  # uvloop's start_tls does not get to the end of a server's handshake
        ws="none",
        backlog=_BACKLOG,
        log_config=None if json_logs.on() else LOGGING_CONFIG,  # None: all goes to the root's handler
        log_level="info",
        access_log=False,
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],  # of every answer: what a caller sent, and is told, is never taken for a page
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies) or None,
        timeout_keep_alive=max(1, round(settings.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(settings.timeout_seconds)),
    )
    config.load()
    try:
        _secure(settings, connection)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"tls_cert {settings.tls_cert}: certificate, key or authorities cannot be used ({e}); give PEM files") from None
    return config, connection


def _secure(settings: ServingSettings, connection: type[Limited]) -> None:
    """New connections are secured by what the files hold now, and by nothing that they held before: what a context has learnt to trust it
    trusts for ever. Raises OSError, ssl.SSLError, and changes nothing then."""
    if settings.tls_cert is None:
        return
    tls, authorities = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), frozenset[bytes]()
    tls.load_cert_chain(settings.tls_cert, settings.tls_key)
    tls.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; those of 1.3 are all good
    if settings.tls_client_ca is not None:
        authorities = parts_of(settings.tls_client_ca.read_bytes())
        tls.load_verify_locations(settings.tls_client_ca)
        # Where keys or tokens are taken too, a client may come without a certificate; then the guard asks it for one of these.
        tls.verify_mode = ssl.CERT_OPTIONAL
    connection.tls, connection.authorities = tls, authorities


class Reload:
    """Takes a new certificate, key and authorities into use when their files change. Connections that are open keep theirs, unless an
    authority is gone that was there when their client was checked."""

    def __init__(self, settings: ServingSettings, connection: type[Limited]) -> None:
        self._settings = settings
        self._connection = connection
        self._stamp = self._stamps()
        self._told = ""

    def tell(self) -> None:
        """Say once that the certificate or the authorities of clients have expired, will soon, or are not in force yet."""
        now = datetime.now(UTC)
        both = certificate_warning(self._settings.tls_cert, now), authorities_warning(self._settings.tls_client_ca, now)
        warning = "; ".join(line for line in both if line)
        if warning and warning != self._told:
            log.warning(warning)
        self._told = warning

    def look(self) -> None:
        """Look at the files once. Files that cannot be used (a half-written pair, say) change nothing; the next look tries again."""
        self.tell()
        stamp = self._stamps()
        if stamp == self._stamp or self._settings.tls_cert is None:
            return
        try:
            _secure(self._settings, self._connection)
        except (OSError, ssl.SSLError) as e:
            log.error("TLS: the changed files cannot be used (%s); the previous ones stay in use", e)
            return
        self._stamp = stamp
        log.info("TLS: the certificate was reloaded")

    def _stamps(self) -> list[tuple[int, int] | None]:
        files = (self._settings.tls_cert, self._settings.tls_key, self._settings.tls_client_ca)
        return [_stamp(file) for file in files if file is not None]


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size
