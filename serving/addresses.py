"""Network addresses: which of them are one caller."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

__all__ = ["network_of"]

_OWN_BITS = 64
"""Of an IPv6 address: whoever has one has all that begin with these bits."""


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What limits per address count by: an IPv4 address itself, of an IPv6 address its network, as its owner has 2^64 of them."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, _OWN_BITS), strict=False))
