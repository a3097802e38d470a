"""The jar of ours on an engine's class path, before all others (``java/``): where the services that an SDK worker calls listen, and a
main class that ends the JVM where an engine's own fails.

It ships built, so that a JRE is enough; ``tandem -m pipelines.services.own_jar`` builds it anew, byte for byte, with a JDK 17.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pipelines.services.jars import classpath
from transforms.errors import ConfigError

__all__ = ["JAR", "MAIN", "build"]

JAR = Path(__file__).with_name("tandem-jvm.jar")
MAIN = "tandem.JobMain"
"""Takes the name of a main class and its arguments. An engine that fails as it starts leaves threads behind, which kept its JVM alive."""
_SOURCES = Path(__file__).with_name("java")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build(jar: Path) -> None:
    """Compile ``java/`` against the pinned jars and write ``jar``: the same sources and compiler give the same bytes.

    Raises ConfigError."""
    javac = shutil.which("javac")
    if javac is None:
        raise ConfigError("there is no javac on $PATH; install a JDK 17: only rebuilding the jar needs one")
    with tempfile.TemporaryDirectory() as made:
        sources = sorted(str(path) for path in _SOURCES.rglob("*.java"))
        flags = ["--release", "8", "-Xlint:-options", "-g:none", "-proc:none", "-d", made, "-cp", classpath("flink")]
        done = subprocess.run([javac, *flags, *sources], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
        if done.returncode:
            raise ConfigError(f"the jar's sources do not compile: {done.stderr.strip()[:500]}")
        with zipfile.ZipFile(jar, "w", zipfile.ZIP_STORED) as out:
            for path in sorted(Path(made).rglob("*.class")):
                out.writestr(zipfile.ZipInfo(path.relative_to(made).as_posix(), _EPOCH), path.read_bytes())


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else JAR)
