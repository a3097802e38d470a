"""What we ship on: ``python tests/check_supply.py FOLDER [--strict]`` holds the locks against what is known of them, and writes SBOMs.

``known_vulnerabilities.json`` is the database, as of its last change. Where pip-audit reaches its own, what that knows beside is printed
too, and with ``--strict`` (``make audit``) a breach: else a morning's entry would stop everybody's ``make check``. An entry that a lock is
affected by must say why it stays, and an excuse must still be needed. The SBOMs (CycloneDX 1.6, one per lock) hold packages and jars with
their hashes; equal locks give equal files. Prints each breach and exits 1.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-modern.lock")
SECONDS = 300
KNOWN = "known_vulnerabilities.json"
JARS = ("jars-kafka.sha256", "jars-flink.sha256")


@dataclass(frozen=True)
class Pinned:
    """One thing that is pinned: ``purl`` as package URLs have it, and the SHA-256 of each file that may be it."""

    kind: str
    name: str
    version: str
    purl: str
    hashes: tuple[str, ...]


def python_packages(lock: Path) -> list[Pinned]:
    """The packages of a lock of pip's."""
    found = []
    for entry in re.split(r"\n(?=\S)", lock.read_text()):
        head = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", entry)
        if head is not None:
            name, version = re.sub(r"[-_.]+", "-", head[1]).lower(), head[2]
            found.append(Pinned("python", name, version, f"pkg:pypi/{name}@{version}", tuple(re.findall(r"sha256:([0-9a-f]{64})", entry))))
    return found


def jars(lock: Path) -> list[Pinned]:
    """The jars of a lock of ours: ``sha256  path in a Maven repository``."""
    found = []
    for line in lock.read_text().splitlines():
        digest, path = line.split(None, 1)
        *group, artifact, version, _ = PurePosixPath(path).parts
        found.append(Pinned("jars", artifact, version, f"pkg:maven/{'.'.join(group)}/{artifact}@{version}", (digest,)))
    return found


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:  # of a jar: 4.1.105.Final, 33.3.1-android
        return Version(re.match(r"\d+(\.\d+)*", text)[0])  # type: ignore[index]


def affected(pinned: Pinned, entry: dict[str, str]) -> bool:
    """Whether an entry of the list is about this version."""
    if pinned.name != entry["package"]:
        return False
    bounds = re.sub(r"(\d+(?:\.\d+)*)[.-][A-Za-z][^,]*", r"\1", entry["affected"])
    return SpecifierSet(bounds, prereleases=True).contains(_version(pinned.version))


def breaches(pinned: list[Pinned], known: dict[str, list[dict[str, str]]]) -> list[str]:
    """One line for each vulnerability without a reason, and for each reason that nothing needs any more."""
    out = []
    for kind in ("python", "jars"):
        for entry in known[kind]:
            hit = sorted({f"{p.name} {p.version}" for p in pinned if p.kind == kind and affected(p, entry)})
            if hit and not entry["why"]:
                out.append(
                    f"{', '.join(hit)}: {entry['id']} ({entry['affected']}); raise it, or say in known_vulnerabilities.json why it stays"
                )
            if not hit and entry["why"]:
                out.append(
                    f"{entry['package']}: no lock is affected by {entry['id']} any more; empty its why in known_vulnerabilities.json"
                )
    return out


def asked(packages: list[Pinned], command: tuple[str, ...] = (sys.executable, "-m", "pip_audit")) -> dict[str, list[str]] | None:
    """``name version`` -> the names that each of its vulnerabilities goes by, as pip-audit knows them; None where its database is not
    reached."""
    wanted = {p.name: f"{p.name}=={p.version}" for p in packages}
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "pinned.txt"
        for part, seconds in (
            (list(wanted.values())[:1], 30),
            (list(wanted.values()), SECONDS),
        ):  # one first: without a database each waits
            lines.write_text("\n".join(part) + "\n")
            words = [*command, "--requirement", str(lines), "--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
                answers = json.loads(done.stdout)["dependencies"]
            except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
                return None
            if all("skip_reason" in each for each in answers):
                return None
        for each in answers:
            for one in each.get("vulns", ()):
                found.setdefault(f"{each['name']} {each['version']}", []).append(", ".join([one["id"], *one.get("aliases", ())]))
    return found


def unknown(found: dict[str, list[str]], known: dict[str, list[dict[str, str]]]) -> list[str]:
    """One line for each vulnerability that pip-audit found and the list does not name."""
    listed = {(entry["package"], name) for entry in known["python"] for name in entry["id"].split(", ")}
    return [
        f"{package}: {ids}, which pip-audit knows and known_vulnerabilities.json does not; raise it, or enter why it stays"
        for package, each in sorted(found.items())
        for ids in each
        if not any((package.partition(" ")[0], name) in listed for name in ids.split(", "))
    ]


def sbom(pinned: list[Pinned], version: str) -> dict[str, Any]:
    """A CycloneDX document; the same for the same pins."""
    components = [
        {
            "type": "library",
            "bom-ref": p.purl,
            "name": p.name,
            "version": p.version,
            "purl": p.purl,
            # Several files of one version (wheels of platforms) are no hashes of one component; those are properties.
            **({"hashes": [{"alg": "SHA-256", "content": p.hashes[0]}]} if len(p.hashes) == 1 else {}),
            **({"properties": [{"name": "tandem:sha256", "value": h} for h in p.hashes]} if len(p.hashes) > 1 else {}),
        }
        for p in sorted({p.purl: p for p in pinned}.values(), key=lambda p: p.purl)
    ]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))
    me = {"type": "application", "bom-ref": "tandem-features", "name": "tandem-features", "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": me},
        "components": components,
        "dependencies": [{"ref": "tandem-features", "dependsOn": [c["bom-ref"] for c in components]}],
    }


def main(folder: Path, strict: bool = False, ask: Callable[[list[Pinned]], dict[str, list[str]] | None] = asked) -> int:
    """See the module; ``ask`` is pip-audit."""
    java = [p for name in JARS for p in jars(ROOT / "pipelines" / "services" / name)]
    python = {name: python_packages(ROOT / name) for name in LOCKS}
    known = json.loads((ROOT / "tests" / KNOWN).read_text())
    found = breaches([*java, *(p for packages in python.values() for p in packages)], known)
    answers: list[dict[str, list[str]] | None] = []
    for packages in python.values():
        answers.append(ask(packages) if None not in answers else None)
    if None in answers:
        print("pip-audit reaches no database of vulnerabilities: tests/known_vulnerabilities.json counts, as of its last change")
    beside = sorted({line for answer in answers for line in unknown(answer or {}, known)})
    for line in [*found, *beside]:
        print(line)
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "tandem" / "__init__.py").read_text(), re.MULTILINE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, packages in python.items():
        target = folder / f"{name.removesuffix('.lock').replace('requirements', 'sbom')}.cdx.json"
        target.write_text(json.dumps(sbom([*packages, *java], version[1] if version else "0"), indent=1) + "\n")
        print(f"{target}: {len(packages)} packages, {len({p.purl for p in java})} jars")
    return 1 if found or (strict and (beside or None in answers)) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--strict" in sys.argv))
