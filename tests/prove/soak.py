"""Half a year of real flights in some 25 minutes (event time runs some ten thousand times faster): a real broker, real Flink, a server
that is asked all the time. On the way the stream is restarted, killed and given other numbers of shards, a topic gets partitions, a model
is promoted, a changed definition is applied. What each process holds is written down every ten seconds; the stream is verified before
the change and in the end. A leak shows as a rise that does not end.

    python -m tests.prove.soak --minutes 24

Adds its tables to the report of ``make prove``, from which ``python -m tests.prove.ledger`` makes docs/proof.md, and writes ``soak.json``
with the tables and ``held.json`` with every sample into ``--folder``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipelines.lake.processes import free_ports, start_child
from tests.integration.flights import ROOT, environment
from tests.integration.stream_world import parts_of
from tests.prove.asking import Asking
from tests.prove.held import Watch, size
from tests.prove.report import Report
from tests.prove.reporting import ROOT as HERE
from tests.prove.slice import command

BEGIN, BOUNDARY = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)
EVENTS_PER_DAY = 1800  # of the three sources together
ASKED = ("origin_traffic", "carrier_traffic")
"""The groups that the model reads; another one is changed on the way, so that the server goes on."""
GROWS = 0.45
"""The share of the time after which a topic gets partitions."""
CATCH_UP_SECONDS = 300.0


def _parts(n: int) -> tuple[str, ...]:
    """Words that divide a stream of the embedded engine, which it does where it is told to."""
    return "--shards", str(n), "--engine-option", f"parts={n}"


def tandem(repo: Path, *words: str) -> str:
    """A command; its output. Fails with its errors."""
    return command(["-W", "ignore", "-m", "pipelines.cli", *words, "--repo", str(repo)])


class Soak:
    """The world and its script."""

    def __init__(self, folder: Path, minutes: float, rate: float) -> None:
        self.folder, self.seconds = folder, minutes * 60
        self.repo, self.data, self.temporary = folder / "feature_repo", folder / "data", folder / "tmp"
        self.speed = rate * 86400 / EVENTS_PER_DAY
        self.middle = BOUNDARY + timedelta(seconds=self.seconds * GROWS * self.speed)
        self.end = BOUNDARY + timedelta(seconds=self.seconds * self.speed)
        self.port = free_ports(1)[0]
        self.children: list[subprocess.Popen[bytes]] = []
        self.stream: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.happened: list[dict[str, Any]] = []
        self.words: list[str] = []
        self.begun = 0.0
        self.temporary.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(self.temporary)  # all children's, so that what they leave there is seen

    # ---------------------------------------------------------------------------------------------------------------- the world

    def prepare(self) -> None:
        """Events, a batch run over January, graphs applied, rows materialized, two versions of a model, the broker."""
        shutil.copytree(ROOT / "feature_repo", self.repo, ignore=shutil.ignore_patterns("__pycache__"))
        features = self.repo / "features.py"
        text = re.sub(r'\s*preprocessing_fn="[^"]*",', "", features.read_text())
        asked = f"[v for v in views.features() if v.name in {ASKED!r}]"
        features.write_text(re.sub(r"features=views\.features\([^)]*\)", f"features={asked}", text))
        settings = yaml.safe_load((self.repo / "tandem.yaml").read_text())
        settings |= {"stream": {"checkpoint_seconds": 2, "idle_seconds": 2, "clock": "replay"}, "tracking": {"trackers": []}}
        (self.repo / "tandem.yaml").write_text(yaml.safe_dump(settings))
        tandem(self.repo, "events", *_span(BEGIN, self.end + timedelta(days=1)))
        tandem(self.repo, "batch", *_span(BEGIN, BOUNDARY))
        tandem(self.repo, "apply")
        tandem(self.repo, "materialize", *_span(BEGIN, BOUNDARY))
        command(["-m", "tests.prove.soak_models", str(self.repo)])
        tandem(self.repo, "up")
        tandem(self.repo, "topics", "create", "--partitions", "2")

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """A command as a child."""
        line = [sys.executable, "-W", "ignore", "-m", "pipelines.cli", *words, "--repo", str(self.repo)]
        child = start_child(line, self.folder / f"{name}.log", environment())
        self.children.append(child)
        return child

    def start_stream(self, *words: str) -> None:
        """The stream, as it was started before or by other words."""
        self.words = list(words) or self.words
        self.stream = self.start("stream", "stream", *self.words)

    def stop_stream(self) -> None:
        """SIGTERM; it must end in order."""
        assert self.stream is not None
        self.stream.terminate()
        code = self.stream.wait(180)
        if code:
            raise SystemExit(f"the stream ended with {code} after SIGTERM; see {self.folder / 'stream.log'}")

    def processes(self) -> dict[str, int]:
        """Name -> pid of everything that runs for us."""
        out: dict[str, int] = {}
        if self.stream is not None and self.stream.poll() is None:
            parts = parts_of(self.stream.pid)
            out["stream's driver"] = self.stream.pid
            for name, part in (("stream's worker", "worker"), ("stream's JVM (Flink)", "java")):
                if parts[part]:
                    out[name] = parts[part][0]
        if self.server is not None and self.server.poll() is None:
            out["server"] = self.server.pid
        if self.broker:
            out["broker's JVM (Kafka)"] = self.broker
        return out

    broker = 0

    # --------------------------------------------------------------------------------------------------------------- the script

    def at(self, share: float, what: str, act: Callable[[], Any]) -> None:
        """Do it when its time has come, and note it."""
        while time.monotonic() - self.begun < share * self.seconds:
            self.look_after()
            time.sleep(0.5)
        begun = time.monotonic()
        said = act()
        note = {"minute": round((begun - self.begun) / 60, 1), "what": what, "seconds": round(time.monotonic() - begun, 1)}
        self.happened.append(note | ({"said": str(said)} if said else {}))
        print(json.dumps(self.happened[-1]), file=sys.stderr, flush=True)

    def look_after(self) -> None:
        """Ends where something has ended unasked."""
        for name, child in (("stream", self.stream), ("server", self.server)):
            if child is not None and child.poll() is not None:
                raise SystemExit(f"{name} ended early with {child.returncode}; see {self.folder / name}.log")

    def restart(self) -> None:
        """In order, once it is at work."""
        self.caught_up()
        self.stop_stream()
        self.start_stream()

    def kill(self) -> None:
        """kill -9 of the driver."""
        assert self.stream is not None
        self.caught_up()
        self.stream.send_signal(signal.SIGKILL)
        self.stream.wait()
        self.start_stream()

    def shards(self, count: int) -> None:
        """Another number of shards."""
        self.caught_up()
        self.stop_stream()
        self.start_stream(*self.words[: self.words.index("--shards")], *_parts(count))

    def grow(self) -> str:
        """More partitions, for what is sent from now on."""
        from kafka import KafkaAdminClient

        from pipelines.project.repository import load_repo
        from pipelines.sources.kafka.kafka_client import client_options

        loaded = load_repo(self.repo)
        admin = KafkaAdminClient(**client_options(loaded.settings.kafka, loaded.data))
        try:
            admin.create_partitions({"departures": 4, "arrivals": 3})
        finally:
            admin.close()
        return "departures 2 to 4, arrivals 2 to 3"

    def change(self) -> str:
        """Stop, verify, change a definition, batch, apply, materialize, go on by the new graphs."""
        self.caught_up()
        self.stop_stream()
        verdict = self.verify()
        features = self.repo / "features.py"
        text = features.read_text()
        changed = text.replace('Count(over=hours(24), name="legs")', 'Count(over=[hours(12), hours(24)], name="legs")')
        assert changed != text
        features.write_text(changed)
        clock = json.loads((self.data / "replay" / "clock.json").read_text())
        now = clock["event_us0"] + (time.time() * 1e6 - clock["wall_us0"]) * clock["speed"]
        upto = datetime.fromtimestamp(now // 3.6e9 * 3.6e3, UTC)
        for words in (("batch", *_span(BEGIN, upto)), ("apply", "--reason", "the soak"), ("materialize", *_span(BEGIN, upto))):
            tandem(self.repo, *words)
        self.start_stream("--reset", "--from-run", "latest", *_parts(3))
        self.words = [w for w in self.words if w != "--reset"]
        return f"before: {verdict}"

    def verify(self) -> str:
        """``tandem verify`` of all since the stream's start; nothing may be unexplained."""
        proof = json.loads(tandem(self.repo, "verify", "--json"))
        if proof["unexplained"]:
            raise SystemExit(f"{proof['unexplained']} unexplained; see {proof['folder']}")
        answers = max([0, *(view["answers"] for view in (proof.get("served") or {}).values())])
        return f"0 unexplained; {proof['rows']['equal']:,} rows with {proof['values']['equal']:,} values equal, {answers:,} answers"

    def caught_up(self) -> str:
        """Wait until the stream is at the end of its topics, or nearly (records go on coming)."""
        begun = time.monotonic()
        while True:
            self.look_after()
            told = json.loads(tandem(self.repo, "stream", "status", "--json"))
            # What a stream before this one reported may stand there still while this one is starting.
            ours = self.stream is not None and told.get("pid") == self.stream.pid
            found = told.get("progress", {"lag": {}})
            behind = sum(found["lag"].values())
            if ours and found["lag"] and behind < 200 and found["events"] > 0:
                return f"{behind} behind"
            if time.monotonic() - begun > CATCH_UP_SECONDS:
                raise SystemExit(f"the stream is {behind} records behind after {CATCH_UP_SECONDS:g} s")
            time.sleep(2)

    def run(self) -> dict[str, Any]:
        """The whole; the tables."""
        self.prepare()
        self.broker = int(json.loads(tandem(self.repo, "status", "--json"))["kafka"]["pid"])
        at = ("--speed", str(self.speed))
        replay = self.start("replay", "replay", *_span(BOUNDARY, self.middle), *at)
        self.begun = time.monotonic()
        self.start_stream("--from-run", "latest", *_parts(2))
        clock = self.data / "replay" / "clock.json"
        self.server = self.start("server", "serve", "--port", str(self.port), "--clock", str(clock))
        state = self.data / "stream"
        logs = ("rows", "late")
        watch = Watch(
            self.processes,
            {
                "stream's state without its logs": (
                    "stream's driver",
                    lambda: size(p for p in state.rglob("*") if not {*logs} & {*p.relative_to(state).parts}),
                ),
                "temporary files": ("server", lambda: size(self.temporary.rglob("*"))),
            },
        )
        asking = Asking(f"http://127.0.0.1:{self.port}/v1/models/late_flights:predict", self.data)
        try:
            self.at(0.10, "SIGTERM of the stream, and on", self.restart)
            self.at(0.17, "SIGKILL of the stream, and on", self.kill)
            self.at(0.24, "2 to 5 shards", lambda: self.shards(5))
            self.at(0.32, "promotion of version 2", lambda: _last(tandem(self.repo, "promote", "--version", "2", *_FORCED, "--json")))
            self.at(0.38, "5 to 3 shards", lambda: self.shards(3))
            self.at(GROWS, "the first replay ends", lambda: replay.wait(300) or None)
            self.at(GROWS, "new partitions", self.grow)
            replay = self.start("replay", "replay", *_span(self.middle, self.end), *at)
            self.at(0.53, "a changed definition is applied", self.change)
            self.at(1.0, "the end of the replay", lambda: replay.wait(600) or None)
            self.at(1.0, "all is delivered", self.caught_up)
            asking.close()
            watch.look()
            watch.close()
            self.at(1.0, "SIGTERM of the stream", self.stop_stream)
            self.at(1.0, "verify", self.verify)
            self.at(1.0, "verify --stores", lambda: tandem(self.repo, "verify", "--stores") and None)
        finally:
            (self.folder / "held.json").write_text(json.dumps(watch.samples()))
            for child in self.children:
                child.kill()
            tandem(self.repo, "down")
        summary = {
            "event time": f"{(self.end - BOUNDARY).total_seconds() / 86400:.1f} days",
            "minutes": round(self.seconds / 60),
            "requests": asking.answered,
            "refused": dict(asking.refused),
            "versions": dict(asking.versions),
        }
        return {"soak": [summary], "soak: what happened": self.happened, "soak: what was held": watch.rows()}


_FORCED = ("--force", "--reason", "the soak promotes it whatever it is worth")


def _span(start: datetime, end: datetime) -> tuple[str, ...]:
    return "--start", f"{start:%Y-%m-%dT%H:%M:%S}", "--end", f"{end:%Y-%m-%dT%H:%M:%S}"


def _last(text: str) -> str:
    return str(json.loads(text)["outcome"])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=24, help="how long")
    parser.add_argument("--rate", type=float, default=240, help="events per second, about")
    parser.add_argument("--folder", type=Path, help="where to work (default: a new folder, which is kept)")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="tandem-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    part = report.part("soak.py")
    begun = time.monotonic()
    part.about["outcome"] = "passed"
    try:
        part.tables = Soak(folder.resolve(), given.minutes, given.rate).run()
    except BaseException as error:
        part.about["outcome"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        report.write(HERE / "data" / "prove" / "report.json")
        raise
    part.about |= {"seconds": round(time.monotonic() - begun), "load at the end": round(os.getloadavg()[0], 1)}
    (folder / "soak.json").write_text(json.dumps(part.tables, indent=1))
    report.write(HERE / "data" / "prove" / "report.json")
    for line in report.lines():
        print(line)
    if rising := [row["what"] for row in part.tables["soak: what was held"] if row["verdict"] != "flat"]:
        raise SystemExit(f"rises: {', '.join(rising)}")


if __name__ == "__main__":
    main()
