"""What the server counts, in a Prometheus registry of its own (so that two servers in one process do not collide)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.feature_counts import FeatureCounts

__all__ = ["LogMetrics", "Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


_MOST_PRINCIPALS = 100
_REQUEST_LOG = (
    "tandem_request_log_rows_total",
    "tandem_request_log_dropped_rows_total",
    "tandem_request_log_expired_files_total",
    "tandem_request_log_bytes",
    "tandem_request_log_files",
    "tandem_request_log_young_files_total",
)
_SHADOW_LOG = (
    "tandem_shadow_log_rows_total",
    "tandem_shadow_log_dropped_rows_total",
    "tandem_shadow_log_expired_files_total",
    "tandem_shadow_log_bytes",
    "tandem_shadow_log_files",
    "tandem_shadow_log_young_files_total",
)


class LogMetrics:
    """What one log of the server counts, under the six ``names``."""

    def __init__(self, names: tuple[str, str, str, str, str, str], what: str, r: CollectorRegistry) -> None:
        lost = f"Rows dropped by the {what}: queue full, write failed, or internal error."
        self.log_rows = Counter(names[0], f"Rows written into the {what}.", registry=r)
        self.log_dropped = Counter(names[1], lost, ["reason"], registry=r)
        self.log_expired = Counter(names[2], f"Files of the {what} deleted as the oldest.", registry=r)
        self.log_bytes = Gauge(names[3], f"Size of the files of the {what}.", registry=r)
        self.log_files = Gauge(names[4], f"Files of the {what}.", registry=r)
        self.log_young = Counter(names[5], f"Files of the {what} deleted before they were a day old: it is too small.", registry=r)


class Metrics(LogMetrics):
    """The metrics of one server. Label values come from routes, definitions and principals, never from anything else of a request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        super().__init__(_REQUEST_LOG, "request log", r)
        self.requests = Counter("tandem_requests_total", "Requests answered.", ["route", "status"], registry=r)
        self.principals = Counter(
            "tandem_principal_requests_total", "Requests by caller; the first hundred by name.", ["principal", "status"], registry=r
        )
        self._principals: set[str] = set()
        self._routes: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.seconds = Histogram("tandem_request_seconds", "Time to answer, body included.", ["route"], buckets=_SECONDS, registry=r)
        self.instances = Counter("tandem_instances_total", "Instances and entities answered.", ["route"], registry=r)
        self.features = FeatureCounts(r)
        self.mismatches = Counter(
            "tandem_fingerprint_mismatches_total", "Rows or models whose fingerprint does not match.", ["model", "view"], registry=r
        )
        self.predictions_not_finite = Counter(
            "tandem_predictions_not_finite_total", "Rows whose prediction is NaN or infinite.", ["model"], registry=r
        )
        self.model = Gauge("tandem_model_version", "The version being served.", ["model"], registry=r)
        self.alias = Gauge("tandem_model_alias", "The version of an alias; 0: none.", ["model", "alias"], registry=r)
        self.astray = Gauge(
            "tandem_model_alias_not_followed", "1 while the named champion or challenger is not loaded.", ["model"], registry=r
        )
        self.info = Gauge("tandem_model_info", "1 for each version that is loaded.", ["model", "version", "run"], registry=r)
        self.call_requests = Histogram(
            "tandem_model_call_requests",
            "Requests that were batched into one model call.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32),
            registry=r,
        )
        self.reload_failures = Counter(
            "tandem_model_reload_failures_total", "New versions that were refused.", ["model", "reason"], registry=r
        )
        self.reloads = Counter("tandem_model_reloads_total", "New versions that were loaded.", ["model"], registry=r)
        self.store = Gauge("tandem_online_store_up", "1 if the last read of the online store succeeded.", registry=r)
        self.shadow_log = LogMetrics(_SHADOW_LOG, "log of shadow predictions", r)
        self.shadow_requests = Counter(
            "tandem_shadow_requests_total", "Requests that the challenger was also run on.", ["model", "version"], registry=r
        )
        self.shadow_dropped = Counter(
            "tandem_shadow_dropped_total",
            "Requests that the challenger skipped because it was behind.",
            ["model"],
            registry=r,
        )
        self.shadow_errors = Counter(
            "tandem_shadow_errors_total", "Requests that the challenger could not answer.", ["model", "reason"], registry=r
        )
        self.shadow_seconds = Histogram(
            "tandem_shadow_seconds",
            "Time of one run of the challenger, over the requests since the last.",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.ready = Gauge("tandem_ready", "1 when every model and the registry are ready.", registry=r)

    def count_request(self, route: str, status: int, principal: str, seconds: float) -> None:
        """Count a request that was answered; ``route`` is its route's pattern, ``principal`` may be ``""``: nobody in particular."""
        children = self._routes.get((route, status))
        if children is None:  # a child is looked up by its labels once: that costs more than counting
            children = self._routes[route, status] = (self.requests.labels(route, str(status)), self.seconds.labels(route))
        children[0].inc()
        children[1].observe(seconds)
        if principal:
            self.count_principal(principal, str(status))

    def count_principal(self, name: str, status: str) -> None:
        """Count a request of a principal; ``""``: nobody in particular."""
        if name and name not in self._principals:
            if len(self._principals) >= _MOST_PRINCIPALS:
                name = "others"
            else:
                self._principals.add(name)
        if name:
            self.principals.labels(name, status).inc()

    def page(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
