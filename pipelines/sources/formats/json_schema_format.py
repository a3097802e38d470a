"""Records in JSON as Confluent's JSON Schema serializer writes them: a zero byte, the schema's id, the JSON. Plain JSON in the same topic,
which never begins with a zero byte, is read too.

The schema is not what judges a record: the contract does, for every format. With ``kafka.schema_registry`` an id that it does not know,
or that is of another kind, is a reject (``unknown_schema``); without one ids are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.fault_injection import JSON_KINDS, UNKNOWN_ID, break_json
from pipelines.sources.formats.framing import HEADER, frames
from pipelines.sources.formats.record_format import RecordFormat
from pipelines.sources.formats.schema_paths import JsonPlaces, check_fields
from pipelines.sources.formats.verdicts import merged, refusals
from transforms.contract import Checked, Now, check_json, encode_json
from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.origin import Origin
from transforms.reasons import MALFORMED, UNKNOWN_SCHEMA
from transforms.rules import now_of

__all__ = ["JsonSchemaFormat"]


class JsonSchemaFormat(RecordFormat):
    """JSON behind Confluent's framing, or plain. Writing, the source's own JSON Schema is registered as ``<topic>-value``."""

    def __init__(self, source: EventSource, kafka: KafkaSettings) -> None:
        super().__init__(source, kafka)
        self._asks = bool(kafka.schema_registry)
        if self._asks:
            self.open_registry(kafka)
        self._refused: dict[int, str] = {}
        self._known: set[int] = set()
        self._header: bytes | None = None

    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """As :func:`transforms.contract.check_json`, after the header before the JSON is removed."""
        found = frames(payloads)
        refused = dict.fromkeys(np.flatnonzero(found.cut).tolist(), (MALFORMED, "a zero byte at its beginning and no schema id behind it"))
        for number in np.unique(found.ids[found.framed]).tolist() if self._asks else ():
            if why := self._why_not(number):
                refused |= dict.fromkeys(np.flatnonzero(found.ids == number).tolist(), (UNKNOWN_SCHEMA, why))
        if not refused:
            return check_json(found.bodies, self.source, now_us, max_future_us, origin)
        rest = np.setdiff1d(np.arange(len(payloads)), np.array(list(refused), np.int64))
        judged = check_json(
            found.bodies.take(pa.array(rest)),
            self.source,
            now_of(now_us, rest),
            max_future_us,
            None if origin is None else origin.take(rest),
        )
        return merged([(rest, judged), refusals(refused, self.source, now_us, max_future_us)], self.source)

    def _why_not(self, number: int) -> str:
        """Why a schema's records are not JSON; "": they are. An unknown id is requested again later: it may be registered soon."""
        if number in self._known:
            return ""
        if number in self._refused:
            return self._refused[number]
        schema = self.registry.schema(number)
        if schema is None:
            return f"schema {number} is not known to the registry"
        if schema.kind != "JSON":
            self._refused[number] = f"schema {number}: it is {schema.kind}, not JSON"
            return self._refused[number]
        self._known.add(number)
        return ""

    def check_schema(self, say: Callable[[str], None]) -> str:
        """See the base class: by the newest schema of ``<topic>-value``."""
        subject = f"{self.source.topic}-value"
        found = self.registry.version(subject) if self._asks else None
        if found is None or found.kind != "JSON":
            return ""
        try:
            schema = json.loads(found.text)
        except (ValueError, RecursionError):
            raise ConfigError(f"the newest schema of {subject} is not JSON; register one that is") from None
        check_fields(self.source, JsonPlaces(schema), f"the newest schema of {subject}", say)
        return subject

    def prepare_to_encode(self) -> None:
        """Register the source's schema."""
        from transforms.schemas import json_schema

        if not self._asks:
            self.open_registry(self._kafka)
        self._header = HEADER.pack(0, self.registry.register(f"{self.source.topic}-value", json.dumps(json_schema(self.source)), "JSON"))

    def encode(self, events: pa.RecordBatch) -> pa.Array:
        """Compact objects behind the id of the source's own schema; registers that if it is not yet."""
        if self._header is None:
            self.prepare_to_encode()
        assert self._header is not None
        return pa.array([self._header + value for value in encode_json(events).to_pylist()], pa.binary())

    def damaged(self, payload: bytes, key: bytes, dice: int) -> bytes | None:
        """In one of all the ways of :mod:`pipelines.sources.formats.fault_injection`."""
        kind, rest = JSON_KINDS[dice % len(JSON_KINDS)], dice // len(JSON_KINDS)
        if kind == "unknown_schema":
            return HEADER.pack(0, UNKNOWN_ID) + payload[HEADER.size :]
        broken = break_json(kind, payload[HEADER.size :], self.source, rest)
        return broken if broken is None or kind == "random_bytes" else payload[: HEADER.size] + broken
