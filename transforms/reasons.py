"""Why an event does not count: the reason codes of the contract."""

from __future__ import annotations

import numpy as np

__all__ = [
    "CODE",
    "FUTURE_TIMESTAMP",
    "INFINITE",
    "INVALID_UTF8",
    "MALFORMED",
    "MISSING_FIELD",
    "MISSING_TIMESTAMP",
    "NAN",
    "NONPOSITIVE_TIMESTAMP",
    "NOT_IN_DOMAIN",
    "OK",
    "OUT_OF_RANGE",
    "OVERFLOW",
    "REASONS",
    "TOO_LONG",
    "UNKNOWN_SCHEMA",
    "UNREADABLE_FILE",
    "WRONG_TYPE",
    "WRONG_TYPE_TIMESTAMP",
    "WRONG_UNIT_TIMESTAMP",
]

UNREADABLE_FILE = "unreadable_file"
"""A whole file cannot be read: damaged, truncated, not of its format."""
MALFORMED = "malformed"
"""Not JSON, not an object, no payload at all, a repeated key, nested too deep; a batch with a field's column twice."""
INVALID_UTF8 = "invalid_utf8"
"""A payload or a string field is not valid UTF-8 (in JSON also an unpaired surrogate escape)."""
UNKNOWN_SCHEMA = "unknown_schema"
"""A payload names a schema that its registry does not know, or that no event can be read by."""
MISSING_TIMESTAMP = "missing_timestamp"
"""The event time is absent or null."""
WRONG_TYPE_TIMESTAMP = "wrong_type_timestamp"
"""The event time is no timestamp."""
NONPOSITIVE_TIMESTAMP = "nonpositive_timestamp"
"""The event time is zero or negative: at or before 1970."""
WRONG_UNIT_TIMESTAMP = "wrong_unit_timestamp"
"""The event time lies in the first 60 days of 1970: seconds or milliseconds where microseconds are meant."""
FUTURE_TIMESTAMP = "future_timestamp"
"""The event time is further ahead of now than allowed."""
MISSING_FIELD = "missing_field"
"""A required field, such as an entity's key, is absent or null."""
WRONG_TYPE = "wrong_type"
"""A field's value is not of the field's type."""
OVERFLOW = "overflow"
"""A number that its field's type cannot hold exactly: beyond int64, or an integer beyond 2^53 for a float64."""
TOO_LONG = "too_long"
"""A text of more than 64 KiB in UTF-8: nothing that a feature is made of, but enough of them fill every memory on the way. Or a
whole record that is larger than what is read of a topic, or whose events would repeat more of it than fits."""
NAN = "nan"
"""A number is not a number."""
INFINITE = "infinite"
"""A number is infinite (in JSON also a float beyond float64, ``1e999``)."""
OUT_OF_RANGE = "out_of_range"
"""A number is below ``min`` or above ``max``; a timestamp field is outside of the years 1 to 9999."""
NOT_IN_DOMAIN = "not_in_domain"
"""A value is none of the field's ``domain``."""

REASONS = (
    UNREADABLE_FILE, MALFORMED, INVALID_UTF8, UNKNOWN_SCHEMA, MISSING_TIMESTAMP, WRONG_TYPE_TIMESTAMP, NONPOSITIVE_TIMESTAMP,
    WRONG_UNIT_TIMESTAMP, FUTURE_TIMESTAMP, MISSING_FIELD, WRONG_TYPE, OVERFLOW, TOO_LONG, NAN, INFINITE, OUT_OF_RANGE, NOT_IN_DOMAIN,
)  # fmt: skip
"""All reason codes, in order: the first that holds for any field is the record's reason; among fields, the first in schema order."""

CODE = {reason: np.uint8(i) for i, reason in enumerate(REASONS)}
"""What columns hold of a reason, a byte a row."""
OK = np.uint8(255)
"""What columns hold of a row that has no reason."""
