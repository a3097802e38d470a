"""Rigs whose surroundings can be made to fail: a disk that fills, a clock that is set, a network that is slow or cut, a schema registry."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from fastavro import parse_schema, schemaless_writer

from pipelines.lake import processes
from pipelines.services.kafka_broker import Broker
from tests.prove.cable import SERVERS, Cable, cable, inside
from tests.prove.rig import Rig, Stream
from tests.prove.slice import Record, Slice
from tests.prove.small_engine import DROPS_LETTERS
from tests.schema_registry import SchemaRegistry
from transforms.schemas import avro_schema

__all__ = ["AvroRig", "ClockRig", "DiskRig", "FaultRig", "LettersRig", "LiveClockRig", "NetworkRig", "network"]

DISK_MB = 48


class FaultRig(Rig):
    """Its negative control drops what it cannot write at once, as a writer may that only logs errors."""

    def _write(self, stream: dict[str, Any]) -> None:
        super()._write(stream)
        path = self.repo_path / "tandem.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["kafka"]["dead_letter_seconds"] = 5
        path.write_text(yaml.safe_dump(settings))
        if self.stock:
            path = self.repo_path / "feature_store.yaml"
            settings = yaml.safe_load(path.read_text())
            settings["online_store"]["type"] = f"tests.prove.stock.Dropping{self.store.title()}OnlineStore"
            path.write_text(yaml.safe_dump(settings))


class LettersRig(FaultRig):
    """Its negative control drops the letters that their topic does not take, too."""

    def _prepare(self) -> None:
        if self.stock:
            self.environment |= {DROPS_LETTERS: "1"}


class DiskRig(FaultRig):
    """The data folder is a small file system of its own."""

    def _prepare(self) -> None:
        self.data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(self.data)], check=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing fits in it meanwhile: what is deleted is taken at once."""
        over = threading.Event()
        with open(self.data / "filler", "wb") as filler:

            def fill() -> None:
                size = 0
                while not over.wait(0.02):
                    for piece in (1 << 20, 1 << 12):
                        with suppress(OSError):
                            while not over.is_set():
                                os.posix_fallocate(filler.fileno(), size, piece)
                                size += piece

            thread = threading.Thread(target=fill)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                os.ftruncate(filler.fileno(), 0)
                (self.data / "filler").unlink()

    def close(self) -> None:
        """Also unmount; what was in it stays beside it."""
        super().close()
        shutil.copytree(self.data, self.folder / "was", symlinks=True, ignore_dangling_symlinks=True)
        deadline = time.monotonic() + 20
        while subprocess.run(["umount", "--lazy", str(self.data)], capture_output=True).returncode and time.monotonic() < deadline:
            time.sleep(0.2)


class ClockRig(FaultRig):
    """The clock of the stream's processes, all of them and no others, is so many seconds wrong as a file says (``set_clock.c``)."""

    def _prepare(self) -> None:
        library, self.clock = self.folder / "set_clock.so", self.folder / "clock"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(Path(__file__).with_name("set_clock.c"))], check=True)
        self.clock.write_bytes(bytes(8))
        self.environment |= {"LD_PRELOAD": str(library), "SET_CLOCK": str(self.clock)}

    def set(self, seconds: int) -> None:
        """From now on it is so many seconds ahead; 0 for the right time. In place: the processes see it at once."""
        with open(self.clock, "r+b") as file:
            file.write(struct.pack("=q", seconds))


class LiveClockRig(ClockRig):
    """A live stream (``stream.clock: live``): its clock stands where the newest record sent arrived, and runs on from there."""

    def __init__(self, *given: Any, **stream: Any) -> None:
        super().__init__(*given, **{"clock": "live", "idle_seconds": 10**8, **stream})

    def _prepare(self) -> None:
        super()._prepare()
        self.wrong, self.lead, self.lock = 0, self.slice.range.start.timestamp() - time.time(), threading.RLock()
        self.set(0)

    def set(self, seconds: int) -> None:
        """Ahead of where it should be by so many seconds."""
        with self.lock:
            self.wrong = seconds
            super().set(round(self.lead) + seconds)

    def payload(self, record: Record) -> bytes | None:
        """Its value; the clock moves on to its arrival."""
        with self.lock:
            self.lead = max(self.lead, record.stamp_ms / 1000 + 1 - time.time())
            self.set(self.wrong)
        return super().payload(record)

    def settled(self, stream: Stream, n: int) -> bool:
        """Whether the rows are out that the clock had held."""
        out = [point["output_watermark"] for point in stream.control.load_checkpoints().values()]
        due = self.slice.due(n).output_watermark
        return bool(out) and all((now := each[name]) is not None and now >= at for each in out for name, at in due.items())


class AvroRig(FaultRig):
    """All topics hold Avro; ``registry`` is its schema registry."""

    def _prepare(self) -> None:
        self.registry = SchemaRegistry().start()
        self.schemas: dict[str, tuple[bytes, Any]] = {}

    def _write(self, stream: dict[str, Any]) -> None:
        super()._write(stream)
        path = self.repo_path / "tandem.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["kafka"] |= {"schema_registry": self.registry.url, "formats": dict.fromkeys(self.slice.repo.sources, "avro")}
        path.write_text(yaml.safe_dump(settings))

    def payload(self, record: Record) -> bytes | None:
        """A good record as Avro; a broken one as it is."""
        if record.broken:
            return record.value
        if record.source not in self.schemas:
            self.newer(record.source, "")
        head, schema = self.schemas[record.source]
        out = io.BytesIO(head)
        out.seek(len(head))
        schemaless_writer(out, schema, json.loads(record.value or b""))
        return out.getvalue()

    def newer(self, source: str, doc: str) -> None:
        """The producers of a source write by a new version of its schema from now on."""
        schema = {**avro_schema(self.repo.sources[source]), "doc": doc}
        number = self.registry.register(f"{self.repo.sources[source].topic}-value", schema)
        self.schemas[source] = struct.pack(">bI", 0, number), parse_schema(schema)

    def close(self) -> None:
        """Also the registry."""
        super().close()
        self.registry.stop()


class NetworkRig(FaultRig):
    """Its streams run in the clients' namespace of a :func:`network`; this process, the broker and Redis are in the servers'."""

    cable: Cable

    def __init__(self, folder: Path, slice_: Slice, broker: Broker, *words: Any, **stream: Any) -> None:
        assert isinstance(broker, _FarBroker)
        self.cable = broker.cable
        super().__init__(folder, slice_, broker, *words, **stream)
        self.before = Cable.prefix(self.cable.clients)


class _FarBroker(Broker):
    cable: Cable


@contextmanager
def network(folder: Path) -> Iterator[Broker]:
    """A broker behind a cable; this thread is in its namespace meanwhile. For :class:`NetworkRig`."""
    with cable(f"tandem{os.getpid() % 100_000}") as joined, ExitStack() as stack:

        def start_child(command: Any, *words: Any, **more: Any) -> Any:
            return processes.start_child([*Cable.prefix(joined.servers), *command], *words, **more)

        for module in ("kafka_broker", "redis_server"):
            stack.enter_context(patch(f"pipelines.services.{module}.HOST", SERVERS))
            stack.enter_context(patch(f"pipelines.services.{module}.start_child", start_child))
        stack.enter_context(inside(joined.servers))
        broker = _FarBroker(folder / "kafka")
        broker.cable = joined
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()
