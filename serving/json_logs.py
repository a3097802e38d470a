"""Logs as JSON, one object per line on standard error, where ``TANDEM_LOG_FORMAT`` is ``json``; else all stays as people read it.

Whatever reaches standard error becomes such a line: what Python's ``logging`` says, progress and errors for people, what a library
prints there, and what native code writes on its descriptor (:mod:`serving.log_relay`). Each has ``timestamp`` (UTC), ``level``, ``event``,
the ids of its trace, and no secrets. Results on standard output stay as they are.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
from types import TracebackType
from typing import Any, TextIO

from serving import tracing
from serving.log_relay import is_event, own_standard_error
from serving.masking import masked
from transforms.errors import ConfigError

__all__ = ["FORMATS", "VARIABLE", "on", "say", "set_up", "wanted"]

VARIABLE = "TANDEM_LOG_FORMAT"
FORMATS = ("text", "json")
_RUN = "TANDEM_PARENT_RUN"  # of pipelines.project.recording: the run that we are part of
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEVELS = {"error: ": "error", "warning: ": "warning"}

_lines: _Lines | None = None


def wanted() -> bool:
    """Whether the environment asks for JSON. Raises ConfigError for a format that is none."""
    found = os.environ.get(VARIABLE, "").strip().lower() or "text"
    if found not in FORMATS:
        raise ConfigError(f"{VARIABLE} {found!r}: write {' or '.join(FORMATS)}")
    return found == "json"


def on() -> bool:
    """Whether this process writes JSON."""
    return _lines is not None


def set_up(name: str = "tandem") -> None:
    """Begin a trace (its first span is ``name``) where the environment asks for JSON or for spans, and write JSON in the first case.

    Twice is as good as once. Raises ConfigError.
    """
    global _lines
    if wanted() or tracing.exports():
        tracing.begin(name)
    if _lines is not None or not wanted():
        return
    import structlog

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _trace_ids,
    ]
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _masked, structlog.processors.JSONRenderer(default=str)]
    _lines = _Lines(own_standard_error(tracing.ids().get("trace_id", "")), sys.stderr)
    handler = logging.StreamHandler(_lines.out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    logging.getLogger().handlers = [handler]
    logging.getLogger("tandem").setLevel(logging.INFO)
    sys.stderr = _lines
    sys.excepthook = _uncaught


def say(event: str, level: str = "info", **fields: Any) -> None:
    """One line, if :func:`on`."""
    if _lines is None:
        return
    import structlog

    made = _trace_ids(None, level, {"event": event, "level": level, "logger": "tandem.command", **fields})
    structlog.processors.TimeStamper(fmt="iso", utc=True)(None, level, made)
    _lines.out.write(json.dumps(_masked(None, level, made), default=str) + "\n")
    _lines.out.flush()


def _trace_ids(_: Any, __: str, event: Any) -> Any:
    event.update(tracing.ids())
    if run := os.environ.get(_RUN):
        event["run"] = run
    return event


def _masked(_: Any, __: str, event: Any) -> Any:
    return masked(event)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        say("interrupted", "warning")
        return
    logging.getLogger("tandem").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


class _Lines(io.TextIOBase):
    """Standard error to who writes text on it: each whole line leaves as an event. Lines of several threads do not mix."""

    def __init__(self, out: TextIO, before: TextIO) -> None:
        """Events go to ``out``; who wants a descriptor gets that of ``before``."""
        self.out, self._before = out, before
        self._begun = threading.local()

    def write(self, text: str) -> int:
        whole, newline, rest = (getattr(self._begun, "text", "") + text).rpartition("\n")
        self._begun.text = rest
        if newline:
            for line in whole.split("\n"):
                self._line(_ANSI.sub("", line).rstrip())
        return len(text)

    def _line(self, line: str) -> None:
        if is_event(line):
            self.out.write(line + "\n")
            return
        if line.strip():
            before = next((p for p in _LEVELS if line.startswith(p)), "")
            say(line[len(before) :], _LEVELS.get(before, "info"))

    def flush(self) -> None:
        self.out.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.out, name)

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._before.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.out.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.out.errors
