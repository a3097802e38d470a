"""Flat JSON payloads as bytes: which are one flat object or no JSON at all, and how many different keys they can have.

Each look goes over all bytes of a batch by comparisons, of which a processor makes many at a time; a batch in which it finds what is usual
needs no other. What is not usual is looked up by its places. Both ways say the same of the same payloads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["MAX_PAYLOAD_BYTES", "braced", "key_ends", "keys_in", "keys_of_each", "plain"]

MAX_PAYLOAD_BYTES = 16 << 20
"""The longest payload that is read at all, so that none costs more than its bytes can."""
MOST_KEYS = 128
"""Keys that are looked for in all payloads, and bytes of one: those are one column each."""
FRUITLESS, FEW = 8, 16
"""How many keys are looked for that fewer payloads of a block have, before what is left counts as columns of their own."""
BLOCK, BLOCK_ENDS = 128 << 10, 16 << 10
"""Bytes and keys that are looked at in one go: they stay in the processor's cache, with what is made of them."""

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


def braced(payloads: pa.Array) -> tuple[Bytes, Ints, Bools]:
    """The bytes of N payloads in a row, the N + 1 places in them where these begin and end, and which begin with ``{``, end with ``}`` and
    are no longer than payloads may be; none of the nulls."""
    _, ends, data = payloads.buffers()
    offsets = np.frombuffer(ends, dtype=np.int32)[payloads.offset : payloads.offset + len(payloads) + 1].astype(np.int64)
    text, places = np.frombuffer(data or b"", dtype=np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]
    start, length = places[:-1], np.diff(places)
    found = (length >= 2) & (length <= MAX_PAYLOAD_BYTES)
    found[found] = (text[start[found]] == ord("{")) & (text[start[found] + length[found] - 1] == ord("}"))
    if payloads.null_count:
        found &= payloads.is_valid().to_numpy(zero_copy_only=False)
    return text, places, found


def plain(payloads: pa.Array) -> Bools:
    """Which of N payloads (binary, nulls allowed) hold exactly one ``{``, first, one ``}``, last, and no ``[``, ``]``, ``\\`` or control
    character. Such a payload is one flat object or no JSON at all, and any number of them in a row are as many objects or an error.
    """
    n = len(payloads)
    if n == 0:
        return np.zeros(0, dtype=bool)
    text, places, found = braced(payloads)
    if not found.all() or sum(int(np.count_nonzero(_special(text[at : at + BLOCK]))) for at in range(0, len(text), BLOCK)) != 2 * n:
        found &= np.bincount(np.searchsorted(places[1:], _places(text, _special), "right"), minlength=n)[:n] == 2
    # Otherwise each has its two, and no other is left for any.
    return found


def _special(text: Bytes) -> Bools:
    """What a plain payload holds at its two ends alone, or not at all."""
    brackets = text | 0x20  # "[" becomes "{", "]" becomes "}", and no other byte does
    special: Bools = brackets == ord("{")
    special |= brackets == ord("}")
    special |= text < 0x20
    special |= text == ord("\\")
    return special


def _before_colon(text: Bytes) -> Bools:
    """Quotes, of all bytes but the last."""
    found: Bools = (text[:-1] == ord('"')) & (text[1:] == ord(":"))
    return found


def _before_blank(text: Bytes) -> Bools:
    found: Bools = (text[:-1] == ord('"')) & (text[1:] == ord(" "))
    return found


def _places(text: Bytes, which: Callable[[Bytes], Bools], beyond: int = 0) -> Ints:
    """Where bytes stand of which ``which`` says so, that looks at so many ``beyond`` each."""
    found = [np.flatnonzero(which(text[at : at + BLOCK + beyond])) + at for at in range(0, len(text) - beyond, BLOCK)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def keys_in(payloads: pa.Array) -> tuple[int, Ints]:
    """How many keys of N > 0 :func:`plain` payloads are at most one column each; and how many more each has at most (int64 [N]), of which
    each may be a column of its own."""
    text, places, _ = braced(payloads)
    keys = Keys(text, _key_ends(text))
    common = keys.same_in_all(places)
    if common is not None:
        return common, np.zeros(len(payloads), np.int64)
    common, rest = keys.apart()
    return common, np.diff(np.searchsorted(rest, places))


def keys_of_each(payloads: pa.Array) -> Ints:
    """At least as many as there are keys, at any depth, in each of N payloads without control characters and ``\\``."""
    text, places, _ = braced(payloads)
    return np.diff(np.searchsorted(_key_ends(text), places))


def _key_ends(text: Bytes) -> Ints:
    """The second quotes of texts before a colon, ascending: all keys' and, within texts, some others."""
    ends = _places(text, _before_colon, 1)
    if (spaced := _places(text, _before_blank, 1)).size:
        ends = np.union1d(ends, spaced[_colon_past_blanks(text, spaced)])
    return ends


def key_ends(text: Bytes, quotes: Ints) -> Ints:
    """As :func:`_key_ends`, where it is known which bytes are quotes (ascending); something stands behind each."""
    follows = text[quotes + 1]
    ends: Ints = quotes[follows == ord(":")]
    if (spaced := quotes[follows == ord(" ")]).size:
        ends = np.union1d(ends, spaced[_colon_past_blanks(text, spaced)])
    return ends


def _colon_past_blanks(text: Bytes, spaced: Ints) -> Bools:
    """Which of places (ascending) have a colon as the next byte that is no blank.

    Only blocks that begin at one of them are looked at, and each byte in two of them at most, however far blanks reach: what is left over
    of a block is one place at its end, whose blanks fill the rest.
    """
    found = np.zeros(len(spaced), bool)
    at, begin = 0, 0
    while at < len(spaced) and (begin := max(begin, int(spaced[at]) + 1)) < len(text):
        block = text[begin : begin + BLOCK]
        dense = np.flatnonzero(block != ord(" "))
        if not dense.size:
            begin += BLOCK
            continue
        following = int(np.searchsorted(spaced, begin + dense[-1]))
        near = spaced[at:following] - begin
        found[at:following] = block[dense[np.searchsorted(dense, near, "right")]] == ord(":")
        at = following
    return found


class Keys:
    """The keys of payloads that stand in a row: texts before a colon. ``ends``: the places of their second quotes, ascending."""

    def __init__(self, text: Bytes, ends: Ints) -> None:
        self.text, self.ends = text, ends
        self.words = _words(text)

    def before(self, ends: Ints, back: int = 0) -> Words:
        """The eight bytes that end ``back`` bytes before each of these places, ascending; as if zeros stood before the first payload."""
        reach = back + 8
        near = int(np.searchsorted(ends, reach))
        found: Words = self.words[ends[near:] - reach]
        if near:
            head = np.concatenate([np.zeros(reach, np.uint8), self.text[:reach]])
            found = np.concatenate([_words(head)[ends[:near]], found])
        return found

    def key(self, end: int) -> bytes | None:
        """A key with its first quote; None if it is longer than keys are looked at."""
        before = self.text[max(0, end - MOST_KEYS - 1) : end].tobytes()
        start = before.rfind(b'"')
        return before[start:] if start >= 0 else None

    def are(self, key: bytes, ends: Ints, near: Words) -> Bools:
        """Which of the keys that end there are this one; ``near`` are the eight bytes before each of the ends."""
        same = _end_in(near, key[-8:])
        for at in range(8, len(key), 8):
            maybe = np.flatnonzero(same)
            same[maybe] = _end_in(self.before(ends[maybe], at), key[:-at][-8:])
        return same

    def same_in_all(self, places: Ints) -> int | None:
        """How many keys a payload has, if all have the first one's in its order; else None."""
        n = len(places) - 1
        each, uneven = divmod(len(self.ends), n)
        if uneven or each > MOST_KEYS:
            return None
        ends = self.ends.reshape(n, each)
        if each and ((ends[:, 0] < places[:-1]).any() or (ends[:, -1] >= places[1:]).any()):
            return None
        keys = [self.key(end) for end in ends[0].tolist()]
        for at in range(1, n, BLOCK_ENDS):
            for key, column in zip(keys, ends[at : at + BLOCK_ENDS].T, strict=True):
                if key is None or not self.are(key, column, self.before(column)).all():
                    return None
        return each

    def apart(self) -> tuple[int, Ints]:
        """How many keys were looked for, and where those end that are none of these."""
        known: list[bytes] = []
        left, fruitless = [], 0
        for at in range(0, len(self.ends), BLOCK_ENDS):
            rest = self.ends[at : at + BLOCK_ENDS]
            near = self.before(rest)
            others = np.ones(len(rest), bool)
            for key in known:
                others &= ~self.are(key, rest, near)
            rest, near = rest[others], near[others]
            while len(rest) and len(known) < MOST_KEYS and fruitless < FRUITLESS:
                new = self.key(int(rest[len(rest) // 2]))  # sooner one that many have than one that is somewhere alone
                if new is None:
                    break
                known.append(new)
                others = ~self.are(new, rest, near)
                fruitless += len(rest) - np.count_nonzero(others) < FEW
                rest, near = rest[others], near[others]
            left.append(rest)
        return len(known), np.concatenate(left) if left else self.ends


def _words(text: Bytes) -> Words:
    """The eight bytes from each place on."""
    words: Words = np.ndarray((max(len(text) - 7, 0),), "<u8", text, strides=(1,))
    return words


def _end_in(words: Words, some: bytes) -> Bools:
    """Which words of eight bytes end in up to eight others."""
    mask = np.uint64((1 << 64) - (1 << 8 * (8 - len(some))))
    same: Bools = (words & mask) == np.uint64(int.from_bytes(some.rjust(8, b"\0"), "little"))
    return same
