"""What a record format is: how the payloads of a source's records become events, and events payloads.

A format of another package is a class below :class:`RecordFormat`, named as an entry point of the group ``tandem.formats`` and
chosen in ``tandem.yaml`` by that name (``kafka: {formats: {departures: csv}}``); it is held to
``tandem.testing.formats.RecordFormatContract``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.project.config import KafkaSettings
from pipelines.project.extensions import FORMATS
from pipelines.sources.formats.record_keys import RecordKeys
from pipelines.sources.formats.schema_registry import Registry, registry_of
from transforms.contract import Checked, Now
from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.origin import Origin

__all__ = ["Decode", "FormatOptions", "RecordFormat", "record_format"]


class Decode(Protocol):
    """What judges records: :meth:`RecordFormat.judge`."""

    def __call__(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None, /) -> Checked:
        """The verdicts on N payloads (binary, null where there is none), at one instant or one each (int64 [N])."""


class FormatOptions(BaseModel):
    """What ``kafka.format_options.<source>`` may hold; a format with settings has a subclass of its own. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordFormat(ABC):
    """The format of one source's records; used by one thread at a time.

    Raises ConfigError when it is made for a source whose settings do not fit. It asks nobody before the first payload needs it.
    """

    Options: ClassVar[type[FormatOptions]] = FormatOptions
    """The settings that it takes; they are in ``options``, which a subclass annotates with this class."""
    options: FormatOptions
    needs_schema_registry: ClassVar[bool] = False
    """Whether ``kafka.schema_registry`` must be set; then :attr:`registry` is there."""
    registry: Registry

    def __init__(self, source: EventSource, kafka: KafkaSettings) -> None:
        self.source, self._kafka = source, kafka
        self.options = self.options_of(source.name, kafka)
        if self.needs_schema_registry:
            self.open_registry(kafka)

    @classmethod
    def options_of(cls, name: str, kafka: KafkaSettings) -> Any:
        """The :attr:`Options` that ``kafka.format_options`` has for the source of a name. Raises ConfigError."""
        try:
            return cls.Options(**kafka.format_options.get(name, {}))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["kafka.format_options", name, *map(str, first["loc"])])
            known = f"; known keys: {', '.join(cls.Options.model_fields) or 'none'}" if first["type"] == "extra_forbidden" else ""
            raise ConfigError(f"{key}: {first['msg']}; correct it or drop the key{known}") from None  # its value may be a secret

    def open_registry(self, kafka: KafkaSettings) -> None:
        """Have :attr:`registry`; for formats that need it by their settings. Raises ConfigError where there is none."""
        if not kafka.schema_registry:
            raise ConfigError(
                f"kafka.schema_registry is missing; the records of source {self.source.name!r} need it: name its address,"
                " e.g. http://127.0.0.1:8081"
            )
        self.registry = registry_of(kafka)

    def judge(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """:meth:`decode`, with what fields read beside the payloads where some do: keys in a registry's framing by what their schemas say,
        in every format."""
        if origin is None:
            return self.decode(payloads, now_us, max_future_us)
        if origin.keys is not None:
            origin = replace(origin, opened=self._keys.opened)
        return self.decode(payloads, now_us, max_future_us, origin)

    @cached_property
    def _keys(self) -> RecordKeys:
        return RecordKeys(self.source, self._kafka)

    @abstractmethod
    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """The verdict on N payloads: binary [N], null where a record has none (tombstones are not passed). Records arrive as they come:
        never raises for what they hold.

        Whatever is no event is a reject with a reason of :mod:`transforms.reasons` and a detail that says the same every time.
        The verdict on a record depends on itself (and its schema) alone, never on those beside it. What its values mean is the
        contract's business: hand them to :func:`transforms.contract.check_records` or :func:`transforms.contract.check`, and ``origin``
        with them: what the N records carry beside, for sources whose fields stand there. A format without that parameter has no such
        sources.

        May raise RegistryAway (the same call is made again) and ConfigError: a failure of ours is no verdict on a record.
        """

    @abstractmethod
    def encode(self, events: pa.RecordBatch) -> pa.Array:
        """The payload of each of N valid events (in ``source.arrow_schema``): binary [N]. :meth:`decode` gives exactly these back."""

    def sample(self, payloads: Sequence[bytes]) -> list[dict[str, Any]] | None:
        """What payloads hold, for ``tandem infer``: a record each of names and plain values (also lists and dicts of them), without those
        that cannot be read; ``source`` names no fields yet. None, the default: only a definition says what the format's payloads hold.

        Raises as :meth:`decode`.
        """
        return None

    def check_schema(self, say: Callable[[str], None]) -> str:
        """What is wrong with the source's fields by the schema that is registered for its topic's records, without one of them. What it is
        called; "", the default: no schema tells. ``say`` hears of fields that it does not name and allows.

        Raises ConfigError for a field that stands where no record can have anything; RegistryAway and ConfigError as the registry.
        """
        return ""

    def prepare_to_encode(self) -> None:  # noqa: B027  # most formats leave it as it is
        """Make known elsewhere what readers need, e.g. register a schema; called before the first :meth:`encode`. By default: nothing.

        Raises RegistryAway and ConfigError.
        """

    def from_log(self, checked: Checked, payloads: pa.Array) -> pa.Array:
        """The payloads to send for N records of an event log, whose verdict is ``checked`` and whose JSON is ``payloads`` (binary [N]).

        A record that the contract refuses keeps its JSON: a format need not have room for what does not fit. So :meth:`decode` must
        refuse it too.
        """
        out = self.encode(checked.valid)
        if len(out) == len(payloads):
            return out
        values, made = payloads.to_pylist(), out.to_pylist()
        for row, value in zip(checked.accepted.tolist(), made, strict=True):
            values[row] = value
        return pa.array(values, pa.binary())

    def damaged(self, payload: bytes, key: bytes, dice: int) -> bytes | None:
        """A broken copy of an event's payload, for replays that test what happens; :meth:`decode` refuses it. None: no payload, for
        which a replay sends an empty one: with a key alone it would be a tombstone.

        ``key`` are the bytes of the event's tie-breaker, ``dice`` random bits that alone decide how it is broken.
        """
        return (b"", None)[dice % 2]


def record_format(source: EventSource, kafka: KafkaSettings, name: str | None = None) -> RecordFormat:
    """The format of a source's records, by ``kafka.formats`` (default: JSON) or by its name. Raises ConfigError, one line."""
    name = name or kafka.format_of(source.name)
    made: type[RecordFormat] = FORMATS.load(name)
    if source.needs_origin and "origin" not in inspect.signature(made.decode).parameters:
        raise ConfigError(
            f"record format {name!r} reads payloads only, but fields of source {source.name!r} come from keys, headers or timestamps;"
            " its decode must take origin and pass it to the contract"
        )
    return made(source, kafka)
