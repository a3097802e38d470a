"""Standard error as native code writes on it (C++ libraries, a JVM), one JSON object per line; see :mod:`serving.json_logs`.

The relay is a process of its own, which ends when nobody can write any more: the last words of a process that crashes are those that are
looked for. There is one for a process and all that it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TextIO

from serving.masking import masked
from transforms.own_program import module_command

__all__ = ["is_event", "main", "own_standard_error"]

_VARIABLE = "TANDEM_LOG_RELAY"
"""Names the pipe to a relay: a process whose standard error is that pipe needs none of its own."""
_kept: list[subprocess.Popen[bytes]] = []


def own_standard_error(trace: str) -> TextIO:
    """Where this process writes its own JSON. Descriptor 2 leads to a relay from now on, whose lines bear the id ``trace``."""
    before: TextIO = sys.stderr
    if before is not sys.__stderr__ or before.fileno() != 2:  # it leads elsewhere already, and is none of ours
        return before
    if os.environ.get(_VARIABLE) == _name(2):
        return before
    before.flush()
    theirs, ours = os.pipe()
    environment = {k: v for k, v in os.environ.items() if k != "TANDEM_LOG_FORMAT" and not k.startswith("OTEL_")}
    command = module_command("serving.log_relay", trace)
    try:
        # In a session of its own: what ends us by our terminal or our group lets it read to the end.
        _kept.append(subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, env=environment, start_new_session=True))
    except OSError:  # no process to be had: what is ours is JSON all the same
        os.close(ours)
        return before
    finally:
        os.close(theirs)
    kept: TextIO = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    os.dup2(ours, 2)
    os.close(ours)
    os.environ[_VARIABLE] = _name(2)
    return kept


def _name(descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"{found.st_dev}:{found.st_ino}"


def is_event(line: str) -> bool:
    """Whether a line, of a process that we started, is JSON already."""
    if not (line.startswith("{") and line.endswith("}")):
        return False
    try:
        json.loads(line)["event"]
    except (ValueError, KeyError):
        return False
    return True


def event(line: str, trace: str) -> str:
    """The JSON of a line; one that is an event already stays as it is."""
    if is_event(line):
        return line
    made = {"event": line, "level": "info", "logger": "stderr", "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    if trace:
        made["trace_id"] = trace
    return json.dumps(masked(made))


def main(trace: str) -> None:
    """Relay standard input to standard error until it ends."""
    for raw in sys.stdin.buffer:
        if line := raw.decode("utf-8", "backslashreplace").strip():
            sys.stderr.write(event(line, trace) + "\n")
            sys.stderr.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
