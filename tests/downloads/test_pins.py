"""The pin reader: what it takes, what it refuses, and that it never fails in another way."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import ArtifactNotFound, PinInvalid
from trinity_mlx.downloads.addresses import HubFile, StoredFile, WebFile, parse_home, shown
from trinity_mlx.downloads.pins import Pin, parse_pin, read_pin, shipped_pin, shipped_pins

BASE_REVISION = "c1899de289a04d12100db370d81485cdf75e47ca"
GOOD: dict[str, Any] = {
    "schema": "trinity-mlx.pin",
    "version": 1,
    "name": "mine",
    "summary": "a router",
    "files": [
        {
            "path": "base/config.json",
            "size": 726,
            "sha256": "a" * 64,
            "home": f"hf://Qwen/Qwen3-0.6B@{BASE_REVISION}/c",
        },
        {"path": "vector.npy", "size": 10, "sha256": "b" * 64, "home": "https://example.org/vector.npy"},
    ],
    "router": {"base": {"id": "Qwen/Qwen3-0.6B", "revision": None, "folder": "base"}, "vector": "vector.npy"},
}
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(["..", "/etc/passwd", "a/../b", "", "A" * 64, "http://", "hf://a", [], {}, [{}]]),
)


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """``GOOD`` with one value replaced, or removed where ``to`` is ``...``."""
    pin = copy.deepcopy(GOOD)
    place: Any = pin
    for key in path[:-1]:
        place = place[key]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return pin


def parse(pin: Any) -> Pin:
    return parse_pin(json.dumps(pin).encode(), "test.json")


def slots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in pairs for place in [(*path, key), *slots(item, (*path, key))]]


def test_a_good_pin_is_read() -> None:
    pin = parse(GOOD)
    assert [file.path for file in pin.files] == ["base/config.json", "vector.npy"]
    assert pin.router.text_format == "role-lines"


@pytest.mark.parametrize(
    ("pin", "fragment"),
    [
        (changed("version", to=2), "version 2"),
        (changed("version", to=True), "version True"),
        (changed("files", to=[]), "files"),
        (changed("files", 0, "sha256", to=...), "sha256"),
        (changed("files", 0, "sha256", to=None), "sha256"),
        (changed("files", 0, "sha256", to="A" * 64), "sha256"),
        (changed("files", 0, "size", to="726"), "size"),
        (changed("files", 0, "size", to=-1), "size"),
        (changed("files", 0, "extra", to=1), "extra"),
        (changed("files", 0, "home", to="ftp://host/file"), "a home is"),
        (changed("files", 0, "home", to="hf://Qwen/Qwen3-0.6B/config.json"), "a home is"),
        (changed("files", 1, "path", to="base/config.json"), "collides"),
        (changed("files", 1, "path", to="base/CONFIG.json"), "collides"),
        (changed("files", 1, "path", to="base"), "collides"),
        (changed("files", 1, "path", to="base/config.json/more"), "collides"),
        (changed("router", "vector", to="other.npy"), "not among the files"),
        (changed("router", "vector", to=None), "either a vector or a bundle"),
        (changed("router", "bundle", to="base"), "either a vector or a bundle"),
        (changed("router", "base", "folder", to="elsewhere"), "none of the files"),
        (changed("router", to=...), "router"),
        (changed("name", to="a/b"), "name"),
        ([GOOD], "version None"),
        (7, "version None"),
    ],
)
def test_what_does_not_hold_up_is_refused(pin: Any, fragment: str) -> None:
    with pytest.raises(PinInvalid) as caught:
        parse(pin)
    assert "test.json" in str(caught.value)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/x",
        "a/../x",
        "a/./x",
        "a//x",
        "a/",
        ".",
        "..",
        "",
        ".hidden",
        "a\\x",
        "a\0x",
        "~/x",
        "C:/x",
        "a\nb",
        "é",
    ],
)
def test_no_path_leaves_the_destination(path: str) -> None:
    with pytest.raises(PinInvalid):
        parse(changed("files", 0, "path", to=path))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"null", b'{"version": 1, "version": 1}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(PinInvalid):
        parse_pin(raw, "test.json")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PinInvalid, match="cannot read"):
        read_pin(tmp_path / "none.json")


@given(st.data())
def test_a_mutated_pin_is_read_or_refused_and_never_leaves(data: st.DataObject) -> None:
    pin = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        pin = mutated(pin, data)
    assert_read_or_refused(json.dumps(pin).encode())


@given(st.data())
def test_mutated_bytes_are_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(GOOD).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert_read_or_refused(bytes(raw))


@given(st.text())
def test_any_address_is_a_home_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_home(text)


def mutated(pin: Any, data: st.DataObject) -> Any:
    places = slots(pin)
    if not places:
        return pin
    *parents, key = data.draw(st.sampled_from(places))
    place = pin
    for parent in parents:
        place = place[parent]
    if data.draw(st.booleans()):
        place[key] = copy.deepcopy(data.draw(STRANGE))
    else:
        del place[key]
    return pin


def assert_read_or_refused(raw: bytes) -> None:
    try:
        pin = parse_pin(raw, "test.json")
    except PinInvalid:
        return
    root = Path("/destination")
    assert all((root / file.path).resolve().is_relative_to(root) for file in pin.files)
    assert all(len(file.sha256) == 64 and file.size > 0 for file in pin.files)


@pytest.mark.parametrize(
    "home", ["http://user:hunter2@127.0.0.1:9/f", "https://hunter2@host/f?a=b", "s3://key:hunter2@bucket/key"]
)
def test_a_password_in_an_address_is_refused_and_never_shown(tmp_path: Path, home: str) -> None:
    (tmp_path / "pin.json").write_text(json.dumps(changed("files", 0, "home", to=home)))
    with pytest.raises(PinInvalid, match="password never stand") as refused:
        read_pin(tmp_path / "pin.json")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("https://host/a?token=hunter2", "https://host/a"),
        ("https://host/a#hunter2", "https://host/a"),
        ("https://user:hunter2@host/a@b", "https://host/a@b"),
        ("hf://a/b@main/c", "hf://a/b@main/c"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(address: str, text: str) -> None:
    assert shown(address) == text


def test_homes_are_told_apart() -> None:
    assert parse_home("hf://a/b@v1/c/d.json") == HubFile("a/b", "model", "v1", "c/d.json")
    assert parse_home("hf://datasets/a/b@v1/c") == HubFile("a/b", "dataset", "v1", "c")
    assert parse_home("https://host/a?b=c") == WebFile("https://host/a?b=c")
    assert parse_home("s3://bucket/key") == StoredFile("s3://bucket/key")
    assert parse_home("folder/file") == StoredFile("folder/file")


def test_the_shipped_pins_are_whole_and_pinned_to_revisions() -> None:
    assert shipped_pins() == ["sakana", "sakana-adapted"]
    for pin in map(shipped_pin, shipped_pins()):
        homes = [parse_home(file.home) for file in pin.files]
        assert {home.revision for home in homes if isinstance(home, HubFile)} <= {BASE_REVISION, "v1.0.0"}
        assert all(
            "93cbcae28973d9a227af6aaa6c426bcae7217edc" in home.url for home in homes if isinstance(home, WebFile)
        )
        assert {file.path.split("/")[1] for file in pin.files if file.path.startswith("base/")} == {
            "config.json",
            "tokenizer.json",
            "model.safetensors",
        }


def test_the_sizes_of_the_adapted_tensors_follow_from_their_shapes() -> None:
    vocabulary, hidden, queries, inner = 151_936, 1024, 2048, 3072
    shapes = {
        "1_embedder.token_embedding": (vocabulary, hidden),
        "query": (hidden, queries),
        "key": (hidden, hidden),
        "value": (hidden, hidden),
        "self_attention.output": (queries, hidden),
        "gate": (hidden, inner),
        "intermediate": (hidden, inner),
        "ffn.output": (inner, hidden),
        "language_modeling_head": (vocabulary, hidden),
    }
    for file in shipped_pin("sakana-adapted").files:
        name = Path(file.path).stem
        for part, shape in shapes.items():
            if "checkpoints/" in file.path and part in name:
                count = 2 * shape[0] * shape[1]
                entry = {"dtype": "BF16", "shape": shape, "data_offsets": (0, count)}
                assert file.size == 8 + len(json.dumps({name[5:]: entry}, separators=(",", ":"))) + count


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ArtifactNotFound, match="sakana, sakana-adapted"):
        shipped_pin("nothing")
