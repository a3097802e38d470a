"""Object stores: a local folder, and S3 as SeaweedFS speaks it (a real server). GCS and Azure: tests/scale/test_object_stores.py."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake import file_addresses
from pipelines.lake.data_files import file_version
from serving.object_store.connecting import connect, normal
from serving.object_store.local_folder import LocalFolder
from serving.object_store.object_store import ObjectStore, StoreAccessError, Unreachable
from tandem.testing.object_store import ObjectStoreContract
from tests.object_stores import Faults, faulty, nobody_there
from transforms.errors import ConfigError, DataError


class TestLocalFolder(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalFolder(tmp_path / "store")


class TestS3(ObjectStoreContract):
    @pytest.fixture
    def store(self, s3_here: str) -> ObjectStore:
        return connect(s3_here)

    def test_faults_that_pass_are_not_seen(self, s3: dict[str, str], s3_here: str, monkeypatch: pytest.MonkeyPatch) -> None:
        faults = Faults()
        with faulty(s3["AWS_ENDPOINT_URL"], faults) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            store = connect(s3_here)
            version = store.put("a", b"one")
            faults.plan = ["503", "500", "slow"]
            found = store.read("a")
            assert found is not None and found.content == b"one"
            faults.plan, faults.only = ["lost"], "PUT"
            assert (two := store.replace("a", b"two by me", version)) is not None, "done, though the answer was lost"
            faults.plan = ["lost"]
            assert store.create("b", b"made by me") is not None
            faults.plan = ["lost"]
            assert store.create("b", b"made by another") is None
            faults.plan = ["503", "lost", "500"]
            assert store.replace("a", b"three", version) is None, "stale stays stale"
            found = store.read("a")
            assert found is not None and (found.content, found.version) == (b"two by me", two)

    def test_a_store_that_fails_on_is_one_line(self, s3: dict[str, str], s3_here: str, monkeypatch: pytest.MonkeyPatch) -> None:
        faults = Faults()
        with faulty(s3["AWS_ENDPOINT_URL"], faults) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            monkeypatch.setattr("serving.object_store.blobs._PAUSES", (0.0,))
            store = connect(s3_here)
            faults.always = "503"
            with pytest.raises(
                Unreachable,
                match=r"^s3://tandem/\w+: the store cannot be reached, or fails \(503 Service Unavailable\); gave up after some tries$",
            ):
                store.put("a", b"one")

    def test_what_is_wrong_is_one_line_without_secrets(self, s3_here: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(StoreAccessError, match=r"^s3://no-such-bucket/x: there is no such bucket or container"):
            connect("s3://no-such-bucket/x").read("a")
        connect.cache_clear()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        with pytest.raises(
            StoreAccessError, match=r"^s3://tandem/\w+: access is refused \(403 Forbidden: SignatureDoesNotMatch\)"
        ) as caught:
            connect(s3_here).put("a", b"1")
        assert "another-secret" not in str(caught.value)
        connect.cache_clear()
        monkeypatch.setattr("serving.object_store.blobs._PAUSES", ())
        with nobody_there() as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            with pytest.raises(Unreachable, match=r"cannot be reached"):
                connect(s3_here).put("a", b"1")

    def test_credentials_of_a_profile(self, s3: dict[str, str], s3_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in s3:
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(f"[profile team]\nregion = us-east-1\nendpoint_url = {s3['AWS_ENDPOINT_URL']}\n")
        (tmp_path / "credentials").write_text(
            f"[team]\naws_access_key_id = {s3['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {s3['AWS_SECRET_ACCESS_KEY']}\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "team")
        connect(s3_here).put("a", b"1")
        connect.cache_clear()
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(ConfigError, match="AWS_PROFILE 'nobody': there is no such profile"):
            connect(s3_here)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3:/bucket/a", "s3://bucket/a"),  # as a path library makes it
        ("gs://bucket/a//b/", "gs://bucket/a/b"),
        ("az://container/date=1/x", "az://container/date=1/x"),
    ],
)
def test_urls(given: str, kept: str) -> None:
    assert normal(given) == kept


@pytest.mark.parametrize(
    "given", ["ftp://host/x", "s3://", "s3:///x", "s3://key:secret@bucket/x", "az://c/x?sig=secret", "s3://b/a/../c", "https://host/x"]
)
def test_what_is_no_place(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normal(given)
    assert str(caught.value).startswith("data: ") and "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_single_files_by_an_address_are_the_same_wherever_they_lie(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What steps of a batch job on whatever machine read and write (``pipelines.lake.file_addresses``)."""
    top = str(tmp_path / "top") if where == "folder" else request.getfixturevalue("s3_here")
    if where == "folder":
        (tmp_path / "top" / "graph" / "sub").mkdir(parents=True)
    with file_addresses.writing(f"{top}/graph/one.txt") as path:
        path.write_text("one")
    with file_addresses.writing(f"{top}/graph/sub/two.txt") as path:
        path.write_text("two")
    with file_addresses.reading(f"{top}/graph/one.txt") as path:
        assert (path.name, path.read_text()) == ("one.txt", "one")
    with file_addresses.reading_folder(f"{top}/graph") as folder:
        assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.txt")} == {"one.txt": "one", "sub/two.txt": "two"}
    if where == "folder":
        return
    assert not path.exists() and not folder.exists(), "copies are gone after the body"
    with pytest.raises(DataError, match=r"none\.txt is gone; put it back"), file_addresses.reading(f"{top}/none.txt"):
        pass
    with file_addresses.reading_folder(f"{top}/nothing") as folder:
        assert folder.is_dir() and not list(folder.iterdir())
    with suppress(KeyError), file_addresses.writing(f"{top}/half.txt") as path:
        path.write_text("half")
        raise KeyError
    with pytest.raises(DataError, match="is gone"), file_addresses.reading(f"{top}/half.txt"):
        pass


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_file_that_changes_while_it_is_read_is_an_error(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Between versions, and where it ends before it did: no reader takes bytes of two files for those of one."""
    top = str(tmp_path) if where == "folder" else request.getfixturevalue("s3_here")
    address = f"{top}/log.txt"

    def write(content: bytes) -> str:
        if where == "folder":
            (tmp_path / "log.txt").write_bytes(content)
            os.utime(tmp_path / "log.txt", ns=(len(content), content[0]))
            return file_version(tmp_path / "log.txt")[1]
        return connect(top).put("log.txt", content)

    first = write(b"a" * 1000)
    with file_addresses.unchanged(address, first), file_addresses.opening(address, 1000) as f:
        f.seek(990)
        assert f.read() == b"a" * 10
    with file_addresses.reading(address, first) as path:
        assert path.stat().st_size == 1000
    changed = rf"^{re.escape(address)} was changed, replaced or removed while the job read it; run the same command again"

    def read_on(version: str, content: bytes, then: Any) -> None:
        with file_addresses.unchanged(address, version), file_addresses.opening(address, 1000) as f:
            f.seek(10)
            write(content)
            then(f)

    with pytest.raises(DataError, match=changed):
        read_on(first, b"b" * 1000, lambda f: f.read())
    second = write(b"b" * 1000)
    for version in (first, "no version"):
        with pytest.raises(DataError, match=changed), file_addresses.unchanged(address, version):
            raise AssertionError("nothing of it is read")
        with pytest.raises(DataError, match=changed), file_addresses.reading(address, version):
            raise AssertionError("nothing of it is read")
    with pytest.raises(DataError, match=changed):
        read_on(second, b"c", lambda f: int("what came of it"))
    if where == "s3":
        with pytest.raises(DataError, match=changed):
            read_on("", b"d" * 40, lambda f: f.read())
    read_on("", b"e" * 1000, lambda f: f.read())
