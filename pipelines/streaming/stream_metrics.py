"""``/metrics`` of a streaming job, for Prometheus: built from the driver's view at each scrape. No labels per entity."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pipelines.streaming.status import StreamStatus
from serving.addresses import names_one_host
from transforms.errors import ConfigError

__all__ = ["StreamMetrics", "serve"]

_PREFIX = "tandem_stream_"


class StreamMetrics(Collector):
    """The metrics of :class:`StreamStatus`; ``restarts`` tells how often the engine was started anew."""

    def __init__(self, look: Callable[[], StreamStatus], restarts: Callable[[], int] = lambda: 0) -> None:
        self.look, self.restarts = look, restarts

    def collect(self) -> Iterator[Any]:
        """One family per metric."""
        p = self.look()
        yield _counter("events", "Records read from the topic, valid or not.", ["source"], {(s,): n for s, n in p.read.items()})
        yield _counter("rejected", "Records that became dead letters.", ["source", "reason"], p.rejected)
        yield _counter(
            "filtered", "Events filtered out by the where of their source.", ["source"], {(s,): n for s, n in p.filtered.items()}
        )
        yield _counter("empty", "Records whose exploded list is empty.", ["source"], {(s,): n for s, n in p.empty.items()})
        yield _counter(
            "tombstones", "Tombstones (records with a key and no value).", ["source"], {(s,): n for s, n in p.tombstones.items()}
        )
        yield _counter("late", "Events that were too late to be counted.", ["source"], {(s,): n for s, n in p.late.items()})
        yield _counter("rows", "Feature rows delivered, revisions included.", ["group"], {(g,): n for g, n in p.rows_of.items()})
        odd = {tuple(feature.split("/")): n for feature, n in p.nonfinite.items()}
        yield _counter("nonfinite", "Values of delivered rows that are NaN or infinite.", ["group", "feature"], odd)
        outcomes = {("written",): p.written, ("stale",): p.stale, ("refused",): p.refused}
        yield _counter("online_rows", "Rows written to the online store, by outcome.", ["outcome"], outcomes)
        spent = {(what,): seconds for what, seconds in p.sink_seconds.items()}
        yield _counter("deliver_seconds", "Delivery time by part; waiting: for an unavailable store.", ["part"], spent)
        yield _counter("restarts", "Restarts of the engine after a failure.", [], {(): self.restarts()})
        lag = {(source, str(partition)): n for (source, partition), n in p.lag.items()}
        yield _gauge("lag_records", "Records between the position and the end of the partition.", ["source", "partition"], lag)
        shares = {(source, str(partition)): share for (source, partition), share in p.late_share.items()}
        yield _gauge("late_share", "Share of a partition's latest records that were too late.", ["source", "partition"], shares)
        marks = {(s,): us / 1e6 for s, us in p.watermark.items()}
        yield _gauge("watermark_seconds", "Event time up to which a source is complete (Unix time).", ["source"], marks)
        output_watermark = {(g,): us / 1e6 for g, us in p.output_watermark.items()}
        yield _gauge(
            "output_watermark_seconds", "Boundary up to which a group's rows were emitted (Unix time).", ["group"], output_watermark
        )
        yield _gauge("paused_partitions", "Partitions paused for their share of rejects or of late events.", [], {(): len(p.paused)})
        yield _gauge("away_partitions", "Partitions whose broker does not respond, or denies access.", [], {(): len(p.away)})
        yield _gauge("waiting_shards", "Shards waiting for an online store or a disk.", [], {(): p.waiting_shards})
        yield _gauge("silent_seconds", "Time since any part of the job reported.", [], {(): p.silent_seconds})


def _counter(name: str, text: str, labels: list[str], values: Any) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _gauge(name: str, text: str, labels: list[str], values: Any) -> GaugeMetricFamily:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up, or says nothing, is no news."""


class _Asked(WSGIRequestHandler):
    timeout = 10
    """Seconds for which a client may be silent."""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        hosts = [each.encode("latin-1", "replace") for each in self.headers.get_all("host", [])]
        if not names_one_host(self.request_version.removeprefix("HTTP/"), hosts):
            self.send_error(400, "Host: one is needed")
            return False
        return True

    def end_headers(self) -> None:  # of an error alone: an application's own are below
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: somebody asks every few seconds."""


def _app(registry: CollectorRegistry) -> Callable[[Any, Any], Any]:
    page = make_wsgi_app(registry)

    def answer(environ: Any, start: Any) -> Any:
        return page(environ, lambda status, headers, *more: start(status, [*headers, ("X-Content-Type-Options", "nosniff")], *more))

    return answer


def serve(metrics: Collector, port: int, setting: str = "stream.metrics_port", host: str = "127.0.0.1") -> tuple[int, Callable[[], None]]:
    """Serve ``/metrics`` (port 0: a free one); the port, and a function that ends it. Raises ConfigError, with ``setting``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        of_family: Any = type("_Server", (_Server,), {"address_family": family})
        server: WSGIServer = make_server(host, port, _app(registry), of_family, _Asked)
    except OSError as error:
        raise ConfigError(f"{setting} {port} on {host}: {error.strerror}; choose another, or 0 for a free one") from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_port), end
