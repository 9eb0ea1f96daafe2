"""Fetching from an S3-compatible store: a small one on this machine, through fsspec and the real client."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from trinity_mlx.contracts.access import S3
from trinity_mlx.contracts.errors import ArtifactNotFound, HomeUnavailable
from trinity_mlx.downloads.homes import Homes, Interruption

from .. import file_server
from ..file_server import FileServer

pytest.importorskip("s3fs")

CONTENT = random.Random(3).randbytes(5_000_000)


@pytest.fixture
def bucket() -> Iterator[FileServer]:
    with file_server.running() as server:
        yield server


def read(bucket: FileServer, home: str, start: int = 0, offline: bool = False) -> bytes:
    store = S3("test", "test", endpoint=bucket.url)
    with Homes(offline=offline, s3=store) as homes, homes.open(home, start) as stream:
        assert (stream.start, stream.total) == (start, len(CONTENT))
        return b"".join(stream.chunks)


@pytest.mark.parametrize("start", [0, 4_999_000])
def test_a_bucket_is_read_from_any_byte(bucket: FileServer, start: int) -> None:
    bucket.add("/bucket/folder/vector", CONTENT)
    found = read(bucket, "s3://bucket/folder/vector", start)
    assert hashlib.sha256(found).digest() == hashlib.sha256(CONTENT[start:]).digest()


def test_a_key_that_is_not_there_is_said(bucket: FileServer) -> None:
    with pytest.raises(ArtifactNotFound, match="s3://bucket/nothing"):
        read(bucket, "s3://bucket/nothing")


def test_a_bucket_that_refuses_is_said(bucket: FileServer) -> None:
    bucket.add("/bucket/vector", CONTENT, file_server.answer(403))
    with pytest.raises(HomeUnavailable, match="s3://bucket/vector"):
        read(bucket, "s3://bucket/vector")


def test_a_bucket_is_not_asked_offline(bucket: FileServer) -> None:
    with pytest.raises(HomeUnavailable, match="network is not to be used"):
        read(bucket, "s3://bucket/vector", offline=True)
    assert bucket.requests == []


def test_other_trouble_of_the_client_may_be_tried_again() -> None:
    def broken() -> S3:
        return S3("test", "test", region="no region \n at all", endpoint="no address")

    with Homes(s3=broken) as homes, pytest.raises(Interruption), homes.open("s3://bucket/vector"):
        pass
