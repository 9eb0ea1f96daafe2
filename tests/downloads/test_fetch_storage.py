"""Fetching from an S3-compatible store: a small one on this machine, through fsspec and the real client."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from trinity_mlx.contracts.errors import ArtifactNotFound, HomeUnavailable
from trinity_mlx.downloads.homes import Homes, Interruption

from .. import file_server
from ..file_server import FileServer

pytest.importorskip("s3fs")

CONTENT = random.Random(3).randbytes(5_000_000)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with file_server.running() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }.items():
            monkeypatch.setenv(name, value)
        yield server


def read(home: str, start: int = 0, **options: bool) -> bytes:
    with Homes(**options) as homes, homes.open(home, start) as stream:
        assert (stream.start, stream.total) == (start, len(CONTENT))
        return b"".join(stream.chunks)


@pytest.mark.parametrize("start", [0, 4_999_000])
def test_a_bucket_is_read_from_any_byte(bucket: FileServer, start: int) -> None:
    bucket.add("/bucket/folder/vector", CONTENT)
    found = read("s3://bucket/folder/vector", start)
    assert hashlib.sha256(found).digest() == hashlib.sha256(CONTENT[start:]).digest()


def test_a_key_that_is_not_there_is_said(bucket: FileServer) -> None:
    with pytest.raises(ArtifactNotFound, match="s3://bucket/nothing"):
        read("s3://bucket/nothing")


def test_a_bucket_that_refuses_is_said(bucket: FileServer) -> None:
    bucket.add("/bucket/vector", CONTENT, file_server.answer(403))
    with pytest.raises(HomeUnavailable, match="s3://bucket/vector"):
        read("s3://bucket/vector")


def test_a_bucket_is_not_asked_offline(bucket: FileServer) -> None:
    with pytest.raises(HomeUnavailable, match="network is not to be used"):
        read("s3://bucket/vector", offline=True)
    assert bucket.requests == []


def test_other_trouble_of_the_client_may_be_tried_again(bucket: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("a client's own error")

    monkeypatch.setattr(fsspec, "url_to_fs", broken)
    with pytest.raises(Interruption, match="a client's own error"):
        read("s3://bucket/vector")
