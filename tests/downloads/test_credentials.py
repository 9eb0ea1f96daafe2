"""Tokens and keys are handed down from the command line: below it, none is found however many lie about."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from trinity_mlx.contracts.access import S3, Hub
from trinity_mlx.contracts.errors import UsageError

from .. import file_server, hub_server
from ..file_server import FileServer
from ..hub_server import HubServer

POISON = "hf_poison1234567890"
GIVEN = "hf_given1234567890"
CONTENT = b"a trained vector"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder in which every tool has kept its credentials."""
    for name, content in {
        ".cache/huggingface/token": POISON,
        ".aws/credentials": "[default]\naws_access_key_id = POISONKEY\naws_secret_access_key = poison\n",
        ".aws/config": "[default]\nregion = eu-poison-1\n",
    }.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "home"


def environment(home: Path, **more: str) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "HF_TOKEN": POISON,
        "HUGGING_FACE_HUB_TOKEN": POISON,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "AWS_ACCESS_KEY_ID": "POISONKEY",
        "AWS_SECRET_ACCESS_KEY": "poison",
        "AWS_EC2_METADATA_DISABLED": "true",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def python(code: str, env: Mapping[str, str], *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def hub(tiny_folders: dict[str, Path]) -> Iterator[HubServer]:
    with hub_server.running(Path(tiny_folders["base"])) as server:
        yield server


OPEN = """
import sys
from pathlib import Path
from trinity_mlx.artifacts.base import open_base
from trinity_mlx.contracts.access import Hub
endpoint, cache, token = sys.argv[1:]
print(open_base("me/base", hub=Hub(token or None, endpoint, Path(cache))).ref)
"""


@pytest.mark.parametrize("token", ["", GIVEN])
def test_a_base_by_name_is_asked_for_with_the_token_that_was_given(
    hub: HubServer, home: Path, tmp_path: Path, token: str
) -> None:
    elsewhere = environment(home, HF_ENDPOINT="http://127.0.0.1:1", HF_HUB_CACHE="/nowhere")
    python(OPEN, elsewhere, hub.url, tmp_path / "cache", token)
    assert set(hub.tokens) == {f"Bearer {token}" if token else None}
    assert (tmp_path / "cache" / "models--me--base").is_dir()


def test_the_command_line_hands_down_the_users_token_and_places(
    hub: HubServer, home: Path, tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    env = environment(home, HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(tmp_path / "cache"), HF_TOKEN=GIVEN)
    arguments = ["route", "What?", "--artifact", tiny_folders["artifact"], "--base", "me/base", "--profile", "cpu"]
    command = [sys.executable, "-m", "trinity_mlx.cli", *map(str, arguments), "--json"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    assert set(hub.tokens) == {f"Bearer {GIVEN}"}
    assert (tmp_path / "cache" / "models--me--base").is_dir()
    assert GIVEN not in result.stdout + result.stderr


def test_nobody_is_asked_for_a_token_where_nothing_is_downloaded(tiny_folders: dict[str, Path]) -> None:
    from trinity_mlx import load_router

    def unexpected() -> Hub:
        raise AssertionError("the hub is not needed")

    load_router(**tiny_folders, profile="cpu", hub=unexpected).close()  # type: ignore[arg-type]


READ = """
import sys
from trinity_mlx.contracts.access import S3
from trinity_mlx.downloads.homes import Homes
endpoint, key, secret = sys.argv[1:]
with Homes(s3=S3(key or None, secret or None, endpoint=endpoint)) as homes, homes.open("s3://bucket/vector") as stream:
    print(b"".join(stream.chunks).decode())
"""


@pytest.fixture
def bucket() -> Iterator[FileServer]:
    pytest.importorskip("s3fs")
    with file_server.running() as server:
        server.add("/bucket/vector", CONTENT)
        yield server


@pytest.mark.parametrize("key", ["", "GIVENKEY"])
def test_a_bucket_is_asked_with_the_key_that_was_given(bucket: FileServer, home: Path, key: str) -> None:
    with file_server.running() as elsewhere:
        env = environment(home, AWS_ENDPOINT_URL=elsewhere.url, AWS_PROFILE="not-there", AWS_CA_BUNDLE="/nowhere")
        assert python(READ, env, bucket.url, key, key and "secret").strip() == CONTENT.decode()
        assert elsewhere.requests == []
    signed = [headers.get("authorization", "") for headers in bucket.headers]
    assert all(("Credential=GIVENKEY/" in each) if key else not each for each in signed)
    assert not any("POISON" in str(headers) or "eu-poison-1" in str(headers) for headers in bucket.headers)


@pytest.mark.parametrize("named", [{}, {"AWS_ACCESS_KEY_ID": "GIVENKEY"}], ids=["file", "variable"])
def test_the_command_line_hands_down_the_users_key(
    bucket: FileServer, home: Path, tmp_path: Path, named: dict[str, str]
) -> None:
    env = dict(environment(home, AWS_ENDPOINT_URL=bucket.url, XDG_CACHE_HOME=str(tmp_path / "cache"), **named))
    if not named:
        del env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]
    base = b"{}"
    (tmp_path / "config.json").write_bytes(base)
    pin = {
        "schema": "trinity-mlx.pin",
        "version": 1,
        "name": "mine",
        "summary": "made by a test",
        "files": [
            {"path": path, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "home": place}
            for path, raw, place in (
                ("vector.npy", CONTENT, "s3://bucket/vector"),
                ("base/config.json", base, "config.json"),
            )
        ],
        "router": {"base": {"id": "a/b", "revision": None, "folder": "base"}, "vector": "vector.npy"},
    }
    (tmp_path / "pin.json").write_text(json.dumps(pin))
    command = [sys.executable, "-m", "trinity_mlx.cli", "fetch", "--pin", str(tmp_path / "pin.json")]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    key = named.get("AWS_ACCESS_KEY_ID", "POISONKEY")
    assert all(f"Credential={key}/" in headers["authorization"] for headers in bucket.headers)


def test_half_a_key_is_refused_and_secrets_are_not_shown() -> None:
    with pytest.raises(UsageError, match="one of the two is missing"):
        S3(key="K")
    shown = repr((S3("K", "secret-of-mine", "token-of-mine"), Hub("token-of-mine")))
    assert "of-mine" not in shown
