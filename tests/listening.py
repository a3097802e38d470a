"""Which ports processes listen on, as the kernel tells it (what ``ss -ltnp`` shows)."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LISTEN = "0A"


def descendants(*pids: int) -> set[int]:
    """These processes and all below them, running now."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _address(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, port = text.split(":")
    words = b"".join(bytes.fromhex(host[k : k + 8])[::-1] for k in range(0, len(host), 8))  # 32-bit words, little endian
    address = ipaddress.ip_address(words)
    return getattr(address, "ipv4_mapped", None) or address, int(port, 16)


def listeners(pids: Iterable[int]) -> list[tuple[int, str, int]]:
    """(pid, address, port) of each TCP socket on which one of the processes listens."""
    sockets: dict[str, tuple[str, int]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, port = _address(fields[1])
                sockets[fields[9]] = str(address), port
    found = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inode = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(handle))
            except OSError:
                continue
            if inode is not None and inode[1] in sockets:
                found.add((pid, *sockets[inode[1]]))
    return sorted(found)


@contextmanager
def heard(seconds: float = 0.2) -> Iterator[set[tuple[str, int]]]:
    """(address, port) on which anything that this process starts listens while the body runs, as far as a look now and then shows it."""
    found: set[tuple[str, int]] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            found.update((address, port) for _, address, port in listeners(descendants(os.getpid()) - {os.getpid()}))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def beyond_loopback(pids: Iterable[int]) -> list[tuple[int, str, int]]:
    """Those of ``listeners`` that another machine reaches."""
    return [each for each in listeners(pids) if not ipaddress.ip_address(each[1]).is_loopback]
