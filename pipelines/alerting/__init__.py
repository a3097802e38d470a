"""Alerts: what is wrong (:mod:`.alert`, pure) is sent to one receiver, once per change of its state (:mod:`.alert_store`).

Grouping, repeats, silences and who is on duty are Alertmanager's: it gets the same findings from Prometheus (``docker/prometheus``).
"""

from pipelines.alerting.alert import Alert, from_report, from_runs
from pipelines.alerting.alert_store import AlertStore, Message
from pipelines.alerting.delivery import deliver
from pipelines.alerting.receiver import AlertReceiver, Outcome, open_receiver
from pipelines.alerting.webhook import Webhook

__all__ = ["Alert", "AlertReceiver", "AlertStore", "Message", "Outcome", "Webhook", "deliver", "from_report", "from_runs", "open_receiver"]
