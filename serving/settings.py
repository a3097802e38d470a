"""The settings of ``tandem serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["ServingSettings"]


class ServingSettings(BaseModel):
    """Settings of one server; checked at construction, never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_repo: Path
    """The folder that holds ``feature_store.yaml``."""
    models: Path
    """The folder of models: ``<models>/<name>/<version>/saved_model.pb`` with ``tandem.json`` beside it."""
    graphs: Path
    """The folder of transform graphs: ``<graphs>/<group>/CURRENT`` holds the fingerprint applied to the online rows."""
    host: str = "127.0.0.1"
    port: int = Field(default=8500, ge=0, le=65535)
    """0 takes a free port."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    max_instances: int = Field(default=10_000, ge=1)
    """Instances (or entities) in one request."""
    fingerprint_policy: Literal["refuse", "serve"] = "refuse"
    """Whether a model whose fingerprint differs from the rows that it reads is refused (503), or served and counted."""
    poll_seconds: float = Field(default=2.0, gt=0)
    """How often the folder of models and the feature registry are looked at."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """What one request may take, reading its body included, before it is answered with 503."""
    threads: int = Field(default=8, ge=1, le=256)
    """Threads that read features and run models."""
    max_waiting: int = Field(default=64, ge=0)
    """Requests that may wait for a thread; more are answered with 503 at once."""
    keep_versions: int = Field(default=2, ge=1)
    """Versions of a model that stay loaded: the champion and those before it; without aliases the newest ones. A challenger that is run in
    the shadow is one of them, and then at least two are."""
    as_of: AwareDatetime | None = None
    """Answer as if it were this instant, for ages and TTLs over replayed history. By default: now."""
    clock: Path | None = None
    """A file that ``tandem replay`` writes: while it is there, time passes as it says, for ages and TTLs over a history that is
    being replayed. It may come later. By default, and while it is not there: ``as_of``, or now."""
    request_log: Path | None = None
    """The folder of the request log (see ``serving.request_log``); none: nothing is logged."""
    request_log_sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests that is logged, chosen by a hash of the request id."""
    request_log_rows: int = Field(default=20_000, ge=1)
    """Instances after which a file is closed and becomes visible."""
    request_log_seconds: float = Field(default=60.0, gt=0)
    """Seconds after which a file that has rows is closed and becomes visible."""
    request_log_bytes: int = Field(default=2**30, ge=1)
    """What the files of the log may take together; the oldest are deleted."""
    request_log_files: int = Field(default=20_000, ge=1)
    """How many files the log may have; the oldest are deleted."""
    shadow: bool = True
    """Whether the challenger is run on the requests too, off the answers' path, and logged beside the request log (without one: not)."""
    shadow_sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests that the challenger is run on, chosen by a hash of the request id."""
    shadow_waiting: int = Field(default=2_000, ge=1)
    """Requests that may wait for the challenger; more are not run on it, and counted."""
