"""What we ship on: the list of known vulnerabilities is held both ways, and the SBOM is CycloneDX."""

from __future__ import annotations

import json
import sys

import pytest

from tests.check_supply import JARS, LOCKS, ROOT, Pinned, affected, asked, breaches, jars, main, python_packages, sbom, unknown


def pinned(name: str, version: str, kind: str = "python") -> Pinned:
    return Pinned(kind, name, version, f"pkg:x/{name}@{version}", ("0" * 64,))


def test_the_locks_hold_the_list(tmp_path, capsys):
    """SECURITY M11: as make check runs it."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # compiles grammars when it is imported

    assert main(tmp_path, ask=lambda packages: {}) == 0, capsys.readouterr().out
    for lock in LOCKS:
        name = lock.replace("requirements", "sbom").replace(".lock", ".cdx.json")
        text = (tmp_path / name).read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        found = {c["name"] for c in json.loads(text)["components"]}
        assert {"pyarrow", "apache-beam", "kafka-clients", "beam-runners-flink-1.19"} <= found
        assert len(found) > 400


def test_every_pin_of_the_locks_is_read():
    for lock in LOCKS:
        text = (ROOT / lock).read_text()
        assert len(python_packages(ROOT / lock)) == sum("==" in line and not line.startswith((" ", "#")) for line in text.splitlines())
    for name in JARS:
        place = ROOT / "pipelines" / "services" / name
        assert len(jars(place)) == len(place.read_text().splitlines())


def test_versions_of_jars_are_compared_as_numbers():
    entry = {"package": "netty-handler", "affected": "<4.1.118.Final", "id": "CVE", "why": ""}
    versions = {"4.1.105.Final": True, "4.1.118.Final": False, "4.1.119.Final": False, "4.1.99.Final": True}
    assert {v: affected(pinned("netty-handler", v, "jars"), entry) for v in versions} == versions


def test_a_vulnerability_without_a_reason_and_a_reason_without_one_are_breaches():
    bad = {"package": "x", "affected": "<2", "id": "CVE-1", "why": ""}
    known = {"python": [bad], "jars": []}
    assert breaches([pinned("x", "1.9")], known) == ["x 1.9: CVE-1 (<2); raise it, or say in known_vulnerabilities.json why it stays"]
    assert breaches([pinned("x", "2.0")], known) == breaches([pinned("y", "1.0")], known) == []
    known = {"python": [{**bad, "why": "not reached"}], "jars": []}
    assert breaches([pinned("x", "1.9")], known) == []
    assert breaches([pinned("x", "2.0")], known) == [
        "x: no lock is affected by CVE-1 any more; empty its why in known_vulnerabilities.json"
    ]


ANSWER = {
    "dependencies": [
        {"name": "absl-py", "version": "1.4.0", "vulns": []},
        {"name": "pyarrow", "version": "10.0.1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2023-47248"]}, {"id": "GHSA-new"}]},
        {"name": "other", "skip_reason": "not found"},
    ]
}


def program(folder, text):
    """In pip-audit's place: no database is to be reached from where tests run."""
    (folder / "audit.py").write_text(text)
    return sys.executable, str(folder / "audit.py")


def test_what_pip_audit_knows_beside_the_list_is_named(tmp_path, capsys):
    found = asked([pinned("pyarrow", "10.0.1")], program(tmp_path, f"print({json.dumps(json.dumps(ANSWER))})"))
    assert found == {"pyarrow 10.0.1": ["PYSEC-1, CVE-2023-47248", "GHSA-new"]}
    known = json.loads((ROOT / "tests" / "known_vulnerabilities.json").read_text())
    (line,) = unknown(found, known)
    assert line.startswith("pyarrow 10.0.1: GHSA-new, which pip-audit knows")
    assert main(tmp_path / "build", ask=lambda packages: found) == 0 and main(tmp_path / "build", True, lambda packages: found) == 1
    assert capsys.readouterr().out.count("GHSA-new") == 2


@pytest.mark.parametrize(
    "text",
    [
        "raise SystemExit('no network')",
        "print('no json')",
        "print('{}')",
        'print(\'{"dependencies": [{"name": "pyarrow", "skip_reason": "not found"}]}\')',
    ],
)
def test_without_a_database_the_list_counts(tmp_path, text, capsys):
    assert asked([pinned("pyarrow", "10.0.1")], program(tmp_path, text)) is None
    assert main(tmp_path / "build", ask=lambda packages: None) == 0 and "reaches no database" in capsys.readouterr().out
    assert main(tmp_path / "build", True, lambda packages: None) == 1


def test_the_sbom_of_equal_pins_is_equal():
    some = [pinned("b", "1"), pinned("a", "2", "jars")]
    assert sbom(some, "1") == sbom(some[::-1], "1") and sbom(some, "1") != sbom(some[:1], "1")


def test_redis_checks_hostnames_wherever_it_speaks_tls():
    """SECURITY M11: redis-py before 5 does not by itself."""
    from serving.online_store.redis import OrderedRedisOnlineStore

    parse = OrderedRedisOnlineStore._parse_connection_string
    assert parse("redis.internal:6379,ssl=true,password=x")[1]["ssl_check_hostname"] is True
    assert parse("redis.internal:6379,ssl=true,ssl_check_hostname=false")[1]["ssl_check_hostname"] is False
    assert "ssl_check_hostname" not in parse("redis.internal:6379")[1]
