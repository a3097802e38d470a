"""``tandem -m serving '{"feature_repo": ..., "models": ..., "graphs": ...}'``: one server, with its settings as JSON.

A second JSON says that this is one worker of a server (``serving.workers``).

Where the environment names the folder of a run (``TANDEM_RUN_FOLDER``), the server leaves ``ended.json`` there when it ends in order, so
that one can tell a server that was stopped from one that was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving import json_logs
from serving.server import run
from serving.settings import ServingSettings
from serving.workers import Worker
from transforms.errors import TandemError
from transforms.files import write_json


def last_word(**said: Any) -> None:
    """Say how this process ends; nothing that goes wrong here matters more than the end."""
    folder = os.environ.get("TANDEM_RUN_FOLDER")
    if folder:
        with suppress(OSError):
            write_json(Path(folder) / "ended.json", {"pid": os.getpid(), "finished": datetime.now(UTC).isoformat(), **said}, indent=None)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""

    def stopped(number: int, frame: Any) -> None:  # uvicorn raises the signal again when all requests are answered
        last_word(ended="stopped by SIGTERM")
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, stopped)
    try:
        json_logs.set_up("tandem serving")
        run(ServingSettings.model_validate_json(sys.argv[1]), Worker.parse(sys.argv[2]) if len(sys.argv) > 2 else None)
    except KeyboardInterrupt:
        last_word(ended="stopped by Ctrl-C")
        raise
    except TandemError as error:
        last_word(status="failed", error=str(error))
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException as error:
        last_word(status="failed", error=(str(error).splitlines() or [type(error).__name__])[0])
        raise
    last_word(ended="stopped")


if __name__ == "__main__":
    main()
