"""A network of two namespaces, joined by a cable that can be slow or cut: real packets through two TUN devices and a process between.

Needs root, `ip` (iproute2) and /dev/net/tun. The addresses are those of the namespaces alone; the machine's own network is untouched.
The process between does what `tc netem` does where a kernel has it.

``python -m tests.prove.cable NAMESPACE NAMESPACE`` is that process; it obeys lines ("delay 0.1", "cut", "join") and ends with its input.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.integration.flights import environment

__all__ = ["SERVERS", "Cable", "cable", "inside", "possible"]

SERVERS, CLIENTS = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_DEVICE = "cable0"
_LARGEST = 65_536


def possible() -> bool:
    """Whether this process may make namespaces and devices."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists() and any(Path(p, "ip").exists() for p in ("/sbin", "/usr/sbin", "/bin"))


def ip(*words: str) -> None:
    """A command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Cable:
    """``servers`` and ``clients`` are the namespaces; a command runs in one with ``[*prefix(servers), ...]``."""

    servers: str
    clients: str
    process: subprocess.Popen[str]

    @staticmethod
    def prefix(namespace: str) -> list[str]:
        """Words in front of a command."""
        return ["ip", "netns", "exec", namespace]

    def say(self, order: str) -> None:
        """ "delay SECONDS" (one way), "cut" (packets are lost, nobody is told), "join"."""
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()


@contextmanager
def cable(name: str) -> Iterator[Cable]:
    """Two namespaces ``name``-s and ``name``-c, joined; both are gone at the end."""
    servers, clients = f"{name}-s", f"{name}-c"
    made: list[str] = []
    process = None
    try:
        for each in (servers, clients):
            ip("netns", "add", each)
            made.append(each)
            ip("-n", each, "link", "set", "lo", "up")
        words = [sys.executable, "-m", "tests.prove.cable", servers, clients]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for namespace, address in ((servers, SERVERS), (clients, CLIENTS)):
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", _DEVICE)
            ip("-n", namespace, "link", "set", _DEVICE, "up")
        yield Cable(servers, clients, process)
    finally:
        if process is not None:
            process.kill()
            process.wait()
        for each in made:
            ip("netns", "del", each)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and threads that it starts, live in the namespace meanwhile."""
    with open("/proc/thread-self/ns/net") as before:
        _enter(f"/var/run/netns/{namespace}")
        try:
            yield
        finally:
            _setns(before.fileno())


def _enter(path: str) -> None:
    with open(path) as file:
        _setns(file.fileno())


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _device(namespace: str) -> int:
    _enter(f"/var/run/netns/{namespace}")
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH14x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return handle


def main() -> None:
    """Carry packets both ways until standard input ends."""
    ends = [_device(namespace) for namespace in sys.argv[1:3]]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    delay, is_cut, orders = 0.0, False, b""
    waiting: list[tuple[float, int, int, bytes]] = []
    count = itertools.count()
    print("ready", flush=True)
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        ready, _, _ = select.select([0, *ends], [], [], left)
        for handle in ready:
            data = os.read(handle, _LARGEST)
            if handle == 0:
                if not data:
                    return
                *lines, orders = (orders + data).split(b"\n")
                for word in (line.decode().split() for line in lines):
                    is_cut = word[0] == "cut" or (is_cut and word[0] != "join")
                    delay = float(word[1]) if word[0] == "delay" else delay
            elif not is_cut:
                heapq.heappush(waiting, (time.monotonic() + delay, next(count), other[handle], data))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, handle, data = heapq.heappop(waiting)
            with suppress(OSError):  # the other device is not up yet
                os.write(handle, data)


if __name__ == "__main__":
    main()
