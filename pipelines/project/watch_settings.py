"""Settings of what looks after models in use: the monitor, the watch, and who is told."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.project.extensions import ALERT_RECEIVERS
from pipelines.project.secrets import Secret
from pipelines.project.section import Section, all_found, parse_duration

__all__ = ["AlertSettings", "FeatureMonitor", "MonitorSettings", "WatchSettings"]


class AlertSettings(Section):
    """Where alerts go: to a webhook. Without a ``webhook`` they are only shown and kept in ``data/alerts``."""

    receiver: str = "webhook"
    """Or one that another package brings (entry points ``tandem.alert_receivers``)."""
    options: dict[str, str] = Field(default_factory=dict, repr=False)
    """What such a receiver wants to know."""
    webhook: Secret | None = Field(default=None, repr=False)
    """``https://...``. Whoever knows Slack's address may write to it: a secret, better by the environment: ``TANDEM_ALERTS__WEBHOOK``."""
    format: Literal["json", "slack"] = "json"
    """A JSON object with every field, or Slack's ``text`` and ``blocks``."""
    level: Literal["warn", "fail"] = "fail"
    """The mildest finding of the monitor that is an alert."""
    timeout_seconds: float = Field(default=10, gt=0, le=120)
    """How long the receiver may take to answer."""
    keep_hours: float = Field(default=72, gt=0)
    """How long an alert that cannot be delivered is kept and tried again."""
    header: str = "Authorization"
    """The header that ``secret`` is sent in."""
    secret: Secret | None = Field(default=None, repr=False)
    """Its value, e.g. ``Bearer ...``; better given by the environment: ``TANDEM_ALERTS__SECRET``."""

    @field_validator("receiver")
    @classmethod
    def _known(cls, value: str) -> str:
        return all_found(ALERT_RECEIVERS, [value])[0]

    @model_validator(mode="before")
    @classmethod
    def _old(cls, values: Any) -> Any:
        if isinstance(values, dict) and "repeat_hours" in values:
            warnings.warn(
                "alerts.repeat_hours no longer has an effect: Alertmanager repeats alerts; remove the setting", FutureWarning, stacklevel=2
            )
            return {k: v for k, v in values.items() if k != "repeat_hours"}
        return values


class WatchSettings(Section):
    """When ``tandem watch`` looks, and what makes it train anew. A trigger that is null is off."""

    every: str = "1h"
    """How often the monitor runs: ``30m``, ``1h``, ``1d``."""
    drift: bool = True
    """Trigger: the monitor's drift or skew of features or predictions failed."""
    decay: bool = True
    """Trigger: AUC, log loss or calibration on labelled requests failed."""
    champion_days: float | None = Field(default=30, gt=0)
    """Trigger: the champion was made longer ago."""
    new_days: float | None = Field(default=7, ge=1)
    """Trigger: so many whole days of events that the champion's training did not see."""
    train_days: float | None = Field(default=None, ge=1)
    """Train on so many days that have events, up to the newest; null: from where the champion's training began."""
    promote: bool = False
    """Whether a version that the watch made is promoted, if the thresholds of ``tandem promote`` hold. False: it stays the challenger."""
    cooldown_hours: float = Field(default=24, ge=0)
    """The least time between the starts of two trainings of a model."""
    attempts: int = Field(default=3, ge=1)
    """How often a training on the same data may fail before it is left alone."""
    retry_minutes: float = Field(default=30, gt=0)
    """The wait after a failed attempt; twice as long after each further one."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of ``/metrics``; 0 takes a free one (``tandem watch status`` tells it)."""
    metrics_host: str = "127.0.0.1"
    """The same as ``stream.metrics_host``."""

    @field_validator("every")
    @classmethod
    def _duration(cls, value: str) -> str:
        parse_duration(value)
        return value


class FeatureMonitor(Section):
    """What one feature may do; unset: as in ``monitor``."""

    skew: float | None = Field(default=None, gt=0)
    drift: float | None = Field(default=None, gt=0)
    null_rise: float | None = Field(default=None, ge=0)
    unknown_share: float | None = Field(default=None, ge=0)
    check: bool = True
    """False: shown, never judged."""


class MonitorSettings(Section):
    """What ``tandem monitor`` and ``tandem labels`` hold the answers against."""

    skew: float = Field(default=0.15, gt=0)
    """Distance of served values from the training set's (L-infinity for text, Jensen-Shannon for numbers) above which a feature fails,
    if it is also more than chance explains."""
    drift: float = Field(default=0.15, gt=0)
    """The same between a window and the one before."""
    chance: float = Field(default=1.5, ge=1)
    """How many times the greatest distance between the training set's own windows of that length a distance must be."""
    min_rows: int = Field(default=100, ge=10)
    """Fewer answers in a window are not judged."""
    min_moments: int = Field(default=20, ge=1)
    """Answers of so few different minutes (weighed by how many fell into each) are no sample of a window: many at once share their rows."""
    null_rise: float = Field(default=0.1, ge=0, le=1)
    """How much the share of nulls may rise above training's."""
    unknown_share: float = Field(default=0.02, ge=0, le=1)
    """The share of values that training never saw (and more than its own last part had)."""
    too_old_share: float = Field(default=0.1, ge=0, le=1)
    """The share of rows past their TTL, or not there, beyond training's."""
    calibration: float = Field(default=0.1, gt=0, le=1)
    """How far the mean prediction may be from the rate of positive labels."""
    auc_drop: float = Field(default=0.05, ge=0, le=1)
    """How far AUC may be below the training report's."""
    log_loss_rise: float = Field(default=0.1, ge=0)
    min_labels: int = Field(default=200, ge=20)
    """Fewer labels say nothing about AUC, log loss and calibration."""
    real_bugs: int = Field(default=0, ge=0)
    """Served values that differ from their recomputation for no reason but a defect."""
    ahead_share: float = Field(default=0.1, ge=0, le=1)
    """The share of answers that were given from a row that lies after the moment that the server judged by."""
    stale_share: float = Field(default=0.1, ge=0, le=1)
    """The share of answers that were given from a row that was not the newest one due."""
    stale_minutes: float = Field(default=60, ge=0)
    """A row may be behind so long before it counts as stale: a stream knows the time of its sources only by their next event."""
    recompute_answers: int = Field(default=20_000, ge=0)
    """So many answers, the latest, are computed anew; 0: none."""
    label_tolerance_hours: float = Field(default=24, gt=0)
    """How far the moment of a request may lie from the spine's."""
    features: dict[str, FeatureMonitor] = Field(default_factory=dict)
    """By input (``view__feature`` or the request field)."""
