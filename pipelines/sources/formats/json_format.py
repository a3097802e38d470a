"""Records in JSON, one object each: what :func:`transforms.contract.check_json` takes."""

from __future__ import annotations

import pyarrow as pa

from pipelines.sources.formats.fault_injection import JSON_KINDS, break_json
from pipelines.sources.formats.record_format import RecordFormat
from transforms.contract import Checked, Now, check_json, encode_json
from transforms.origin import Origin

__all__ = ["JsonFormat"]


class JsonFormat(RecordFormat):
    """One JSON object per record; timestamps are integers of microseconds or text of ISO 8601."""

    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """See :func:`transforms.contract.check_json`."""
        return check_json(payloads, self.source, now_us, max_future_us, origin)

    def encode(self, events: pa.RecordBatch) -> pa.Array:
        """Compact objects, keys in the order of columns."""
        return encode_json(events)

    def from_log(self, checked: Checked, payloads: pa.Array) -> pa.Array:
        """As they are, byte for byte."""
        return payloads

    def damaged(self, payload: bytes, key: bytes, dice: int) -> bytes | None:
        """In one of all the ways of :mod:`pipelines.sources.formats.fault_injection`."""
        return break_json(JSON_KINDS[dice % len(JSON_KINDS)], payload, self.source, dice // len(JSON_KINDS))
