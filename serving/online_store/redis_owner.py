"""Whose rows a project's are, in Redis: a mark in the hash of applied fingerprints, which whoever writes rows reads and watches already.

A cluster has a copy of that hash per slot, and no step changes two. So the mark has a **term**, which rises with each change: the first
copy decides, and another follows only where its own is older. Each claim looks at all copies. Claims and take-overs at once, those that
were killed in between and a server that lost its copies so end with the same mark in all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from serving.online_store.redis_calls import command
from serving.online_store.redis_link import Link
from transforms.errors import StoreError

__all__ = ["NOBODY", "Mark", "change_owner", "look_at_owner"]

Mark = tuple[int, str]
"""The term, and the owner; empty: nobody."""
NOBODY = ""
_OWNER, _TERM = "", " "
"""The fields: no view has such a name."""
_RULE = """
local key, owner, term = KEYS[1], redis.call('HGET', KEYS[1], '') or '', tonumber(redis.call('HGET', KEYS[1], ' ') or 0)
local function set(new_term, new_owner)
  owner, term = new_owner, new_term
  if owner == '' then redis.call('HDEL', key, '') else redis.call('HSET', key, '', owner) end
  redis.call('HSET', key, ' ', string.format('%.0f', term))
end
local found = tonumber(ARGV[1])
if found > term or (found == term and ARGV[2] > owner) then set(found, ARGV[2]) end
"""
"""ARGV: term and owner of the newest mark that is known of. This copy follows where its own is older."""
_FOLLOW = _RULE + "return {string.format('%.0f', term), owner}"
_DECIDE = (
    _RULE
    + """
if owner ~= ARGV[3] and (ARGV[5] == '1' or owner == ARGV[4]) then set(term + 1, ARGV[3]) end
return {string.format('%.0f', term), owner}"""
)
"""ARGV behind those: the new owner, whose place it may take, 1: anybody's."""
_MOST_ROUNDS = 10


def look_at_owner(link: Link, key_at: Callable[[int], str]) -> Mark:
    """The newest mark, by copies of every server. ``key_at``: the key of the hash at a place."""
    places = link.witnesses()
    return max(_marks(link, key_at, places))


def change_owner(link: Link, key_at: Callable[[int], str], new: str, instead_of: str | None) -> str:
    """Have ``new`` be the owner in the place of ``instead_of`` (None: of anybody), else leave who it is; who it is now, in all copies."""
    first, *others = link.copies
    for _ in range(_MOST_ROUNDS):
        known = _marks(link, key_at, others)
        newest = max(known, default=(0, NOBODY))
        given = [*newest, new, instead_of or NOBODY, int(instead_of is None)]
        (decided,) = _told(link, key_at, _DECIDE, [first], given)
        behind = [place for place, mark in zip(others, known) if mark < decided]
        if max([*known, *_told(link, key_at, _FOLLOW, behind, list(decided))], default=decided) <= decided:
            return decided[1]
        new, instead_of = decided[1], decided[1]  # another was decided since, which this one does not take back
    raise StoreError("online store redis: whose rows these are is changed by others all the time; run one take-over after the other")


def _marks(link: Link, key_at: Callable[[int], str], places: Sequence[int]) -> list[Mark]:
    answers = link.run([command("HMGET", key_at(place), _TERM, _OWNER) for place in places], places)
    return [(int(term or 0), (owner or b"").decode()) for term, owner in answers]


def _told(link: Link, key_at: Callable[[int], str], script: str, places: Sequence[int], given: Sequence[object]) -> list[Mark]:
    if not places:
        return []
    sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    calls = [command("EVALSHA", sha, 1, key_at(place), *given) for place in places]
    return [(int(term), owner.decode()) for term, owner in link.run(calls, places, script, writes=True)]
