"""A receiver of alerts: a file for each message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tandem.pipelines.alerting.receiver import AlertReceiver, Outcome


class Folder(AlertReceiver):
    """``alerts: {receiver: outside_folder, options: {folder: ...}}``."""

    name = "folder"

    def send(self, message: Mapping[str, Any], now: datetime) -> Outcome:
        folder = Path(self.settings.options["folder"])
        try:
            (folder / f"{message['id']}.json").write_text(json.dumps(dict(message)))
        except OSError as error:
            return Outcome(False, str(error.strerror))
        return Outcome(True)
