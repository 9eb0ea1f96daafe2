"""Keys behind references: found, trimmed, missed by name, and never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import SecretUnavailable
from trinity_mlx.pools.secrets import resolve, resolve_pool

from ..run_cases import pool_of, scripted

KEY = "sk-31415926535897932384"


def test_the_environment_that_is_handed_in_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_KEY", "from the process")
    assert resolve("env:ODD_KEY", {"ODD_KEY": f"  {KEY}\n"}) == KEY
    with pytest.raises(SecretUnavailable, match="the environment has no ODD_KEY: export it"):
        resolve("env:ODD_KEY", {})


def test_a_file_holds_the_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "a key: with a colon"
    path.write_text(f"\n {KEY} \n")
    assert resolve(f"file:{path}", {}) == KEY


def test_a_file_may_lie_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text(KEY)
    assert resolve("file:~/key", {}) == KEY


@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_key_is_none(value: str, tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="has no ODD_KEY"):
        resolve("env:ODD_KEY", {"ODD_KEY": value})
    path = tmp_path / "key"
    path.write_text(value)
    with pytest.raises(SecretUnavailable, match="is empty: put the key into it"):
        resolve(f"file:{path}", {})


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in {
        "missing": "No such file",
        ".": "Is a directory",
        "binary": "is not text",
        "nul\0": "null byte",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(SecretUnavailable, match=reason):
            resolve(f"file:{tmp_path}/{name}", {})


def test_a_home_that_nobody_has_is_no_traceback() -> None:
    with pytest.raises(SecretUnavailable, match="cannot be read"):
        resolve("file:~no-such-user-here/key", {})


@given(st.text())
def test_any_reference_gives_a_key_or_a_refusal(text: str) -> None:
    for reference in (text, f"env:{text}", f"file:/no-such-folder/{text}"):
        with pytest.raises(SecretUnavailable):
            resolve(reference, {})


@pytest.mark.parametrize("value", [KEY, f"https:{KEY}", f"bearer:{KEY}", f"ENV:{KEY}", ""])
def test_a_key_in_place_of_a_reference_is_not_repeated(value: str) -> None:
    with pytest.raises(SecretUnavailable, match="is not a reference: give env:NAME or file:/path/to/key") as caught:
        resolve(value, {})
    assert KEY not in str(caught.value)


def test_a_pools_keys_by_slot_and_whose_is_missing() -> None:
    agents = [
        scripted(0, "42"),
        scripted(1, "42", api_key="env:ONE"),
        scripted(2, "42", name="third", api_key="env:TWO"),
    ]
    assert resolve_pool(pool_of(*agents), {"ONE": "first", "TWO": "second"}) == {1: "first", 2: "second"}
    with pytest.raises(SecretUnavailable, match="agent 'third' of pool 'team': the environment has no TWO"):
        resolve_pool(pool_of(*agents), {"ONE": "first"})
