"""A server's certificate that is out of force, or soon will be: said at its start, by its readiness, and once when that changes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving.certificate import authorities_warning, certificate_warning, parts_of
from serving.connections import Connections, connection_class
from serving.server import Reload
from serving.settings import ServingSettings
from tests.certificates import Authority


def made(folder: Path, ends: timedelta) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    Authority().issue(cert, key, "localhost", server=True, ends=ends)
    return cert, key


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (timedelta(minutes=-1), "expired at"),
        (timedelta(minutes=1), "expires at"),
        (timedelta(days=13), "expires at"),
        (timedelta(days=15), ""),
        (timedelta(days=900), ""),
    ],
)
def test_what_is_said_of_a_certificate_by_its_end(tmp_path: Path, ends: timedelta, says: str) -> None:
    cert, _ = made(tmp_path, ends)
    now = datetime.now(UTC)
    told = certificate_warning(cert, now)
    assert (says in told and "without a restart" in told) if says else told == ""
    assert "is not valid before" in certificate_warning(cert, now - timedelta(days=400))


def test_of_a_chain_the_first_end_counts_and_what_cannot_be_read_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    long, _ = made(tmp_path, timedelta(days=900))
    short, _ = made(tmp_path / "a", timedelta(hours=-1))
    long.write_bytes(long.read_bytes() + short.read_bytes())
    now = datetime.now(UTC)
    assert "expired at" in certificate_warning(long, now)
    long.write_text("half of it")
    for file in (long, tmp_path / "none", None):
        assert certificate_warning(file, now) == ""


def test_of_the_authorities_of_clients_the_last_end_counts(tmp_path: Path) -> None:
    """An authority that was followed by another expires in silence; where none is left, no client gets in, and it has to be said."""
    file, now = tmp_path / "ca.pem", datetime.now(UTC)
    gone, soon, later = (Authority(timedelta(days=days)).pem for days in (-0.5, 3, 90))
    for held, says in ((gone, "expired at"), (gone + soon, "expires at"), (gone + later, ""), (b"half of it", "")):
        file.write_bytes(held)
        told = authorities_warning(file, now)
        assert (says in told and "without a restart" in told) if says else told == ""
    assert authorities_warning(None, now) == ""


def test_authorities_that_are_not_in_force_yet_are_told(tmp_path: Path) -> None:
    file, now, day = tmp_path / "ca.pem", datetime.now(UTC), timedelta(days=1)
    short, long, far = Authority(3 * day).pem, Authority(90 * day).pem, Authority(90 * day, begins=10 * day).pem
    after_next = Authority(90 * day, begins=2 * day).pem
    for held, at, says in (
        (long, now, ""),
        (long, now - 2 * day, "is not valid before"),
        (far, now, "is not valid before"),
        (short + far, now, "expires at"),  # nobody is taken between the two
        (short + far, now + 5 * day, "is not valid before"),
        (short + after_next, now, ""),
        (short + Authority(5 * day, begins=2 * day).pem + Authority(90 * day, begins=4 * day).pem, now, ""),
        (short + after_next, now - 2 * day, "is not valid before"),
    ):
        file.write_bytes(held)
        told = authorities_warning(file, at)
        assert (says in told and "without a restart" in told) if says else told == ""


def test_what_a_file_holds_is_told_apart_by_its_certificates_alone() -> None:
    one, two = Authority().pem, Authority().pem
    both = parts_of(one + two)
    assert len(both) == 2 and parts_of(one) < both
    assert both == parts_of(b"# the next\n" + two.replace(b"\n", b"\r\n") + b"subject=CN = x\n" + one + one)
    assert parts_of(b"no certificate\n") == frozenset()


_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    "change",
    [
        lambda pem: pem,
        lambda pem: b"#" + pem,
        lambda pem: b"#" + pem.replace(b"\n", b"\n#", pem.count(b"\n") - 1),
        lambda pem: b"  " + pem.replace(b"\n", b"\n  ", pem.count(b"\n") - 1),
        lambda pem: b"subject=x " + pem,
        lambda pem: b"subject=x\n" + pem,
        lambda pem: b"#" * 253 + pem,
        lambda pem: b"#" * 254 + pem,
        lambda pem: b"#" * 508 + pem,
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: b"\n\xef\xbb\xbf" + pem,
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: pem.replace(b"\n", b" \t\n"),
        lambda pem: pem.replace(_BEGIN, _BEGIN + b"\x01\xa0"),
        lambda pem: pem.replace(_BEGIN, _BEGIN + b" x"),
        lambda pem: pem.replace(_BEGIN, _BEGIN + b"\x7f"),
        lambda pem: pem.replace(_BEGIN, _BEGIN.lower()),
        lambda pem: pem.replace(_BEGIN, b"-" + _BEGIN),
        lambda pem: pem.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
        lambda pem: _BEGIN + b"\n" + b"".join(pem.split(b"\n")[1:-2]) + b"\n" + _END + b"\n",
    ],
)
def test_an_authority_is_in_a_file_where_openssl_loads_it(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """SECURITY: one that was taken out by a # before its first line was still seen, and connections of its clients went on."""
    one, two = Authority().pem, Authority().pem
    for i, held in enumerate((change(one) + two, two + change(one))):
        (file := tmp_path / f"{i}.pem").write_bytes(held)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(file)
        loaded = context.get_ca_certs(binary_form=True)
        assert len(parts_of(held)) == len(loaded)
        assert (ssl.PEM_cert_to_DER_cert(one.decode()) in loaded) == bool(parts_of(change(one)))
        assert parts_of(two) <= parts_of(held)


def test_it_is_said_once_and_again_after_a_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = made(tmp_path, timedelta(minutes=-1))
    given = ServingSettings(feature_repo=tmp_path, models=tmp_path, graphs=tmp_path, tls_cert=cert, tls_key=key)
    reload = Reload(given, connection_class(Connections.of(given)))
    with caplog.at_level(logging.WARNING, "tandem.serving"):
        for _ in range(3):
            reload.look()
        assert len(caplog.records) == 1
        made(tmp_path, timedelta(days=60))
        reload.look()
        reload.look()
        assert len(caplog.records) == 1
        made(tmp_path, timedelta(days=2))
        reload.look()
        reload.look()
        assert [r.getMessage().split(" at ")[0][-7:] for r in caplog.records] == ["expired", "expires"]
