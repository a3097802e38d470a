"""The watch at work: look, decide, retrain, send alerts; again when it is time. Clock, commands and the alert receiver are injected."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pipelines.alerting import Alert, AlertReceiver, AlertStore, deliver, from_report, from_runs, open_receiver
from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.lake.runs import list_runs
from pipelines.project.recording import Stopped
from pipelines.watch.child_commands import Commands
from pipelines.watch.decide import Decision, Look, Retrain, State, decide
from pipelines.watch.event_days import EventDays, event_days
from pipelines.watch.observations import KIND, applied, gather, key_of, latest_report, plan
from pipelines.watch.retrain import alone, retrain
from pipelines.watch.watch_status import Subject, known_until, last_look, look_file
from transforms.errors import DataError, TandemError
from transforms.locks import try_lock

__all__ = ["Watch"]

_BEAT = timedelta(minutes=1)
"""The longest time without a look at the runs, so that a failed job is noticed soon."""
_IN_A_ROUND = 4
"""Actions for one model in one round: a look, a training, and what they lead to. A bound, should the world change while we act."""
_JUDGED_OTHERWISE = frozenset({"monitor", "watch"})
"""Kinds whose exit code is no failure: a monitor that found something ends with 1."""


@dataclass
class Watch:
    """The watch over one data folder. ``as_of`` (ISO 8601, UTC) is the moment that labels and monitor take for now (over replayed history),
    and the end of what is trained on."""

    subject: Subject
    commands: Commands
    clock: Callable[[], datetime]
    say: Callable[[str], None] = lambda line: None
    receiver: AlertReceiver | None = None
    every: timedelta | None = None
    as_of: str | None = None
    look_now: set[str] = field(default_factory=set)
    """Models that are looked at though it is not time yet."""
    failed: list[str] = field(default_factory=list)
    """What went wrong in this process, one line each."""
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What ``/metrics`` shows: model -> looked, triggers, held."""

    def __post_init__(self) -> None:
        self.alerts = AlertStore(layout.alerts(self.subject.data), self.subject.path.name)
        if self.receiver is None:
            self.receiver = open_receiver(self.subject.settings.alerts)
        for model in self.subject.models:
            self.known[model] = {"looked": last_look(self.subject.data, model).get("looked"), "triggers": {}, "held": ""}

    def round(self) -> datetime:
        """Everything that is due now, until nothing is; when to come back. Raises Stopped when the commands are to stop."""
        until = self.clock() + _BEAT
        for model in self.subject.models:
            until = min(until, self._guarded(f"{model}: ", partial(self._model, model)))
        return min(until, self._guarded("alerts: ", self.send_alerts))

    def _guarded(self, what: str, work: Callable[[], datetime]) -> datetime:
        """A full disk, or a damaged file, is said and tried again; it ends no watch."""
        try:
            return work()
        except (TandemError, OSError, sqlite3.Error) as error:
            self._wrong(what + " ".join(str(error).split()))
            return self.clock() + _BEAT

    def send_alerts(self) -> datetime:
        """Bring the store of alerts up to date and deliver those that are pending; when more are."""
        now, data, alerts = self.clock(), self.subject.data, self.subject.settings.alerts
        runs = list_runs(data)
        retrainings = {r.id for r in runs if r.kind == KIND}
        own = [r.head for r in runs if r.kind not in _JUDGED_OTHERWISE and r.head.parent not in retrainings]
        found = {"jobs": from_runs(own, now)}
        for model in self.subject.models:
            report, noted = latest_report(data, model), last_look(data, model)
            found[f"monitor/{model}"] = [] if report is None else from_report(report[1], alerts.level)
            wrong = Alert(
                f"watch/{model}", "fail", f"{model}: the monitor could not run", str(noted.get("error")), "look", {"model": model}
            )
            found[f"watch/{model}"] = [wrong] if noted.get("error") else []
        for scope, fire in found.items():
            for message in self.alerts.sync(scope, fire, now):
                self.say(f"alert, {message.body['state']}: {message.body['title']}")
        if self.receiver is None:
            for message in self.alerts.waiting():
                self.alerts.done(message, "shown")
            return now + _BEAT
        done = deliver(self.alerts, self.receiver, self.clock, keep=timedelta(hours=alerts.keep_hours), say=self.say)
        return min(done.next or now + _BEAT, now + _BEAT)

    def _state(self, model: str) -> State:
        s, noted = self.subject, last_look(self.subject.data, model)
        looked = datetime.fromisoformat(noted["looked"]) if noted.get("looked") and model not in self.look_now else None
        state = gather(s.data, model, self._days(), s.groups, list_runs(s.data), s.settings.watch, looked, bool(noted.get("error")))
        return state if self.every is None else replace(state, policy=replace(state.policy, every=self.every))

    def _days(self) -> EventDays | None:
        return event_days(self.subject.data, self.subject.sources.values(), known_until(self.clock(), self.as_of), keep=True)

    def _decide(self, model: str) -> Decision:
        decision = decide(self._state(model), self.clock())
        self._note(model, decision)
        return decision

    def _model(self, model: str) -> datetime:
        for _ in range(_IN_A_ROUND):
            decision = self._decide(model)
            if isinstance(decision.action, Look):
                if not self._look(model):
                    return self.clock() + _BEAT
            elif isinstance(decision.action, Retrain):
                if not self._retrain(model):
                    return self.clock() + _BEAT
            else:
                return decision.until
        return self.clock() + _BEAT

    def _look(self, model: str) -> bool:
        """Labels, then the monitor; False where another watch is at it."""
        data, now = self.subject.data, self.clock()
        with try_lock(layout.watch(data) / f"look-{model}.lock") as free:
            if not free:
                return False
            state = self._state(model)
            if not isinstance(decide(state, now).action, Look):
                return True  # another watch has just looked
            of = ["--as-of", self.as_of] if self.as_of else []
            code, why = self.commands.run(["labels", "--model", model, *of])
            if code:
                self._wrong(f"tandem labels failed (exit code {code}): {why}")
            before = latest_report(data, model)
            code, why = self.commands.run(["monitor", "--model", model, "--no-labels", *of])
            report = latest_report(data, model)
            error = ""
            if report is None or (before is not None and before[0] == report[0] and before[1] == report[1]):
                error = f"tandem monitor wrote no report (exit code {code}): {why}"
                self._wrong(error)
            elif report is not None:
                self.say(f"monitor of {model}: {report[1].verdict} ({report[0].parent})")
            write_json(look_file(data, model), {"looked": now.isoformat(), "error": error})
            self.known[model]["looked"] = now.isoformat()
            self.look_now.discard(model)
        return True

    def _retrain(self, model: str) -> bool:
        """One retraining, decided on again once it is ours to begin; False where another watch is at it."""
        s = self.subject
        with alone(s.data) as free:
            if not free:
                self.say(f"{model}: another watch is retraining on {s.data}; its result is used here too")
                return False
            decision = self._decide(model)
            days = self._days()
            if not isinstance(decision.action, Retrain) or days is None:
                return True
            graphs = applied(s.data, s.groups)
            span = plan(s.data, model, days, list_runs(s.data), graphs, s.settings.watch.train_days, s.settings.demo.warm_up_days)
            why = "; ".join(f"{t.name}: {t.why}" for t in decision.triggers)
            self.send_alerts()  # what was found is not to wait for the training's end
            self.say(f"{model}: {'resuming a retraining' if decision.action.resume else 'retraining'} ({why})")
            try:
                outcome = retrain(s, model, key_of(model, days.end, graphs), decision.triggers, span, self.commands, self.clock, self.say)
            except DataError as error:
                self._wrong(f"{model}: the retraining failed: {error}")
                return True
            good = outcome.what in ("promoted", "pushed")
            text = "\n".join(part for part in (why, outcome.detail, f"run {outcome.run}") if part)
            title = (
                f"{model}: retrained, version {outcome.version} {outcome.what}"
                if outcome.version
                else f"{model}: retrained, {outcome.what}"
            )
            labels = {"model": model, "version": str(outcome.version or ""), "outcome": outcome.what}
            news = Alert(f"retrain/{outcome.run}", "info" if good else "warn", title, text, labels=labels)
            self.alerts.add(news, self.clock())
        return True

    def _note(self, model: str, decision: Decision) -> None:
        if isinstance(decision.action, Look):
            return  # what holds is judged after it
        known = self.known[model]
        if decision.held and decision.held != known["held"]:
            self.say(f"{model}: {', '.join(t.name for t in decision.triggers)} triggered a retraining, but {decision.held}")
        known["triggers"], known["held"] = {t.name: t.why for t in decision.triggers}, decision.held

    def _wrong(self, line: str) -> None:
        self.failed.append(line)
        self.say(line)

    def run(self, stop: threading.Event, wait: Callable[[datetime], bool] | None = None) -> None:
        """Rounds until ``stop`` is set. ``wait`` waits until a moment, or for the stop, and returns which."""

        def sleep(until: datetime) -> bool:
            return stop.wait(min(max((until - self.clock()).total_seconds(), 0.05), _BEAT.total_seconds()))  # a clock may be set back

        try:
            while not stop.is_set():
                if (wait or sleep)(self.round()):
                    break
        except Stopped:
            self.say("stopping; a retraining in progress resumes at the next start")


def utc_now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)
