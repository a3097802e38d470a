"""Clients of a server that go on asking, whatever becomes of it, and what they were answered."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pyarrow.dataset as ds

__all__ = ["Asking", "rows_of"]

REQUEST = ["origin", "carrier", "dest", "tailnum", "distance"]


def rows_of(data: Path, count: int = 500) -> list[dict[str, Any]]:
    """Requests for the flights' model, of flights that there were."""
    files = sorted((data / "events" / "departures").glob("date=*/*.parquet"))[:3]
    flights = ds.dataset([str(f) for f in files], format="parquet").to_table(columns=REQUEST).slice(0, count).to_pylist()
    return [{**flight, "departure_minute": 600 + n % 600, "weekday": n % 7} for n, flight in enumerate(flights) if flight["tailnum"]]


class Asking:
    """One client that asks about every ``every`` seconds. ``answered`` answers came, by model version in ``versions``; ``refused``:
    other statuses and broken connections."""

    def __init__(self, url: str, data: Path, every: float = 0.1) -> None:
        self.url, self.every, self.rows = url, every, rows_of(data)
        self.answered = 0
        self.versions: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        chosen = random.Random(7)
        with httpx.Client(timeout=20) as client:
            while not self._ended.is_set():
                try:
                    answer = client.post(self.url, json={"instances": chosen.sample(self.rows, 2)})
                except httpx.TransportError as error:
                    if self.answered:  # before the first answer it is still starting
                        self.refused[type(error).__name__] += 1
                    time.sleep(0.2)
                    continue
                if answer.status_code == 200:
                    self.answered += 1
                    self.versions[f"version {answer.json()['model']['version']}"] += 1
                elif self.answered:
                    self.refused[str(answer.status_code)] += 1
                self._ended.wait(self.every)

    def close(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join(30)
