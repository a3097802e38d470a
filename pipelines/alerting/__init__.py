"""Alerts: what is wrong, told to a webhook once per state; see :mod:`pipelines.alerting.book` for what is guaranteed."""

from pipelines.alerting.alert import Alert, from_report, from_runs
from pipelines.alerting.book import Book, Message
from pipelines.alerting.webhook import Outcome, Webhook, deliver

__all__ = ["Alert", "Book", "Message", "Outcome", "Webhook", "deliver", "from_report", "from_runs"]
