"""Network addresses: which of them are one caller; and how a request names the host that it is for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["names_one_host", "network_of"]

_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|\[[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
"""A host and perhaps a port, as in a URI (RFC 3986, 3.2.2). It may be empty."""

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


def names_one_host(version: str, hosts: Sequence[bytes]) -> bool:
    """Whether a request with these Host headers is to be answered (RFC 9112, 3.2): it has one, as a host is written; of HTTP/1.0 it may
    have none. Of two, a proxy may have believed the other one."""
    if not hosts:
        return version in ("0.9", "1.0")
    return len(hosts) == 1 and _HOST.fullmatch(hosts[0].strip(b" \t")) is not None
