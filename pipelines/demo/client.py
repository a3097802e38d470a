"""A client of a served model: the requests of a history as their time comes, and the same one every second, to show how it changes."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import requests

from pipelines.project.http import reason
from pipelines.project.repository import Repo
from serving.clock import Pace
from transforms.definitions import EVENT_TIMESTAMP, REVISION
from transforms.errors import TandemError
from transforms.instants import instant, now_us

__all__ = ["DemoClient", "Question", "most_asked", "past_requests", "post"]

COLUMNS = 3
"""Features shown."""
AT_ONCE = 1000
"""Instances in one request at most."""
Question = tuple[int, dict[str, Any]]
"""When it is asked (microseconds), and the instance."""


def past_requests(repo: Repo, name: str, start: datetime, end: datetime) -> list[Question]:
    """Every request that the model's spine has in [start, end), in order of time. Raises TandemError if there is none."""
    model = _model(repo, name)
    spine: pa.Table = repo.attribute(model.spine)(repo.data, start, end)
    if not spine.num_rows:
        raise TandemError(f"no requests from {start:%Y-%m-%d} to {end:%Y-%m-%d} to ask the model about; choose another --end")
    columns = list(dict.fromkeys([*model.entity_keys, *(f.name for f in model.request_fields)]))
    times: list[int] = spine.column(EVENT_TIMESTAMP).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return sorted(zip(times, spine.select(columns).to_pylist(), strict=True), key=lambda question: question[0])


def most_asked(repo: Repo, name: str, questions: Sequence[Question]) -> dict[str, Any]:
    """One instance to ask again and again: of the entities that are asked about most, so that their features change."""
    keys = _model(repo, name).entity_keys
    instances = [instance for _, instance in questions]
    counts = Counter(tuple(i[k] for k in keys) for i in instances)
    most = max(counts, key=lambda key: (counts[key], *map(str, key)))
    return next(i for i in instances if tuple(i[k] for k in keys) == most)


def _model(repo: Repo, name: str) -> Any:
    return next(m for m in map(repo.attribute, repo.settings.models) if m.name == name)


def post(url: str, body: Any) -> dict[str, Any]:
    """POST JSON, return JSON; raises TandemError with the server's own line."""
    try:
        answer = requests.post(url, json.dumps(body, default=str), headers={"Content-Type": "application/json"}, timeout=30)
    except requests.RequestException as error:
        raise TandemError(f"{url} does not answer: {reason(error)}") from None
    if answer.status_code != 200:
        raise TandemError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    return found


class DemoClient:
    """Asks the same question every second and shows features and prediction; and all ``questions`` as their time comes."""

    def __init__(self, repo: Repo, address: str, model: str, questions: Sequence[Question], say: Callable[[str], None]) -> None:
        self.address, self.model, self.say = address, model, say
        self.question = question = most_asked(repo, model, questions)
        self.waiting = deque(questions)
        self.asked = 0
        self.shown = _shown(repo, set(question))
        self.keys = {k: question[k] for ref in self.shown for k in repo.groups[ref.split(":")[0]].entity.keys}
        self.times: list[float] = []
        self.answers: list[dict[str, Any]] = []
        self.next = 0.0
        self.widths = [max(len(ref), 12) for ref in self.shown]

    def ask(self, clock: Path) -> bool:
        """Ask what is due, not before a second after the last time; whether there was an answer."""
        time.sleep(max(0.0, self.next - time.monotonic()))
        self.next = time.monotonic() + 1
        try:
            self._due(clock)
            row = self._row(clock)
        except (TandemError, OSError) as error:  # a busy machine: the next second asks again
            self.say(f"  no answer: {' '.join(str(error).split())[:120]}")
            return False
        if not self.answers:
            self._line("replayed time", self.shown, "prediction")
        self.answers.append(row)
        self._line(row["at"], ["-" if v is None else f"{v:,.3f}" for v in row["features"].values()], f"{row['prediction']:.4f}")
        return True

    def _due(self, clock: Path) -> None:
        now = _now(clock)
        while now is not None and self.waiting and self.waiting[0][0] <= now:
            due = [instance for at, instance in list(self.waiting)[:AT_ONCE] if at <= now]
            self.all_of(due)
            for _ in due:
                self.waiting.popleft()

    def _row(self, clock: Path) -> dict[str, Any]:
        begun = time.perf_counter()
        answer = post(f"{self.address}/v1/models/{self.model}:predict", {"instances": [self.question]})
        self.times.append((time.perf_counter() - begun) * 1000)
        row: dict[str, Any] = {"at": _time(clock), "prediction": answer["predictions"][0], "features": {}}
        if self.shown:
            entities = {k: [v] for k, v in self.keys.items()}
            body = {"features": self.shown, "entities": entities, "full_feature_names": True}
            got = post(f"{self.address}/get-online-features", body)
            values = dict(zip(got["metadata"]["feature_names"], (r["values"][0] for r in got["results"]), strict=True))
            row["features"] = {ref: values[ref.replace(":", "__")] for ref in self.shown}
        return row

    def _line(self, at: str, values: list[str], prediction: str) -> None:
        self.say(f"  {at:16}  " + "  ".join(v.rjust(w) for v, w in zip(values, self.widths, strict=True)) + f"  {prediction:>10}")

    def all_of(self, instances: list[dict[str, Any]]) -> int:
        """Ask all of them, in one request; how many predictions came."""
        count = len(post(f"{self.address}/v1/models/{self.model}:predict", {"instances": instances})["predictions"])
        self.asked += count
        return count

    def millis(self) -> float:
        """Median milliseconds of a prediction. Raises TandemError if there was none."""
        if not self.times:
            raise TandemError("the server answered no request; see its log lines above")
        return sorted(self.times)[len(self.times) // 2]


def _shown(repo: Repo, keys: set[str]) -> list[str]:
    """The first float feature of each group that the question has the keys of: ``group:feature``."""
    out = []
    for group in repo.groups.values():
        own = {*group.entity.keys, EVENT_TIMESTAMP, REVISION}
        floats = [f.name for f in group.row_schema if f.name not in own and pa.types.is_floating(f.type)]
        if floats and keys.issuperset(group.entity.keys):
            out.append(f"{group.name}:{floats[0]}")
    return out[:COLUMNS]


def _now(clock: Path) -> int | None:
    """The replayed time, microseconds; None before it begins."""
    try:
        return Pace.parse(clock.read_bytes()).at(now_us())
    except (OSError, ValueError):
        return None


def _time(clock: Path) -> str:
    now = _now(clock)
    return "before" if now is None else f"{instant(now):%Y-%m-%d %H:%M}"
