"""The safetensors reader against the safetensors library, and against files that were damaged on purpose."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as numpy_files
from safetensors import torch as torch_files

from trinity_mlx.contracts.artifact import TensorLocation
from trinity_mlx.contracts.errors import TensorFileInvalid
from trinity_mlx.files.safetensors import read_float32, read_header, require

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
SHAPES = st.lists(st.integers(0, 4), max_size=3)
NAMES = st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "model.safetensors"
    tensors = {
        "layer.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "norm.weight": torch.ones(5, dtype=torch.bfloat16),
        "bias": torch.zeros(3, dtype=torch.float16),
    }
    torch_files.save_file(tensors, path, {"format": "pt"})
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "scratch.safetensors"


def tensor_file(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def described(tensors: Mapping[str, TensorLocation]) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    return {name: (each.dtype, each.shape, each.start, each.nbytes) for name, each in tensors.items()}


def reading(path: Path, content: bytes) -> Mapping[str, TensorLocation] | None:
    """What the reader takes ``content`` for, or ``None`` where it refuses it in the one way that it may."""
    path.write_bytes(content)
    try:
        return read_header(path)
    except TensorFileInvalid as error:
        message = str(error)
    assert str(path) in message
    return None


def agrees_with_library(path: Path, tensors: Mapping[str, TensorLocation]) -> bool:
    with safetensors.safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - the library offers no iteration
    library = {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    return library == {name: (each.dtype, each.shape) for name, each in tensors.items()}


@settings(max_examples=60)
@given(st.dictionaries(NAMES, st.tuples(DTYPES, SHAPES), max_size=5))
def test_a_valid_file_reads_as_the_library_reads_it(scratch: Path, layout: dict[str, tuple[torch.dtype, Any]]) -> None:
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in layout.items()}
    torch_files.save_file(tensors, scratch)
    found = read_header(scratch)
    assert agrees_with_library(scratch, found)
    content = scratch.read_bytes()
    for name, tensor in tensors.items():
        stored = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert content[found[name].start : found[name].start + found[name].nbytes] == stored


@settings(max_examples=60)
@given(st.data())
def test_a_file_cut_anywhere_is_refused(valid: bytes, scratch: Path, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(valid) - 1))
    assert reading(scratch, valid[:cut]) is None


@given(st.binary(min_size=1, max_size=40))
def test_a_file_with_bytes_after_its_tensors_is_refused(valid: bytes, scratch: Path, extra: bytes) -> None:
    assert reading(scratch, valid + extra) is None


@settings(max_examples=250)
@given(st.data())
def test_a_header_with_flipped_bytes_is_refused_or_read_as_the_library_reads_it(
    valid: bytes, scratch: Path, data: st.DataObject
) -> None:
    header_end = 8 + struct.unpack("<Q", valid[:8])[0]
    damaged = bytearray(valid)
    for place in data.draw(st.lists(st.integers(0, header_end - 1), min_size=1, max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789-,:[]{}"\\'))
    found = reading(scratch, bytes(damaged))
    if found is not None:
        assert agrees_with_library(scratch, found)


@given(st.data())
def test_changed_tensor_bytes_change_no_header(valid: bytes, scratch: Path, data: st.DataObject) -> None:
    header_end = 8 + struct.unpack("<Q", valid[:8])[0]
    place = data.draw(st.integers(header_end, len(valid) - 1))
    damaged = valid[:place] + data.draw(st.binary(min_size=1, max_size=1)) + valid[place + 1 :]
    found = reading(scratch, damaged)
    assert found is not None
    original = reading(scratch, valid)
    assert original is not None
    assert described(found) == described(original)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_nothing_but_the_one_error(scratch: Path, content: bytes) -> None:
    reading(scratch, content)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | st.text(max_size=4) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F8", "f32", "", None]) | JSON_VALUES,
        "shape": st.lists(st.integers(-1, 3), max_size=2) | JSON_VALUES,
        "data_offsets": st.lists(st.integers(-1, 9), min_size=2, max_size=2) | JSON_VALUES,
    }
)


@settings(max_examples=200)
@given(JSON_VALUES | st.dictionaries(st.sampled_from("ab"), ENTRIES | JSON_VALUES), st.binary(max_size=9))
def test_any_json_header_is_refused_or_covers_the_file_without_gap_or_overlap(
    scratch: Path, header: Any, data: bytes
) -> None:
    content = tensor_file(header, data)
    found = reading(scratch, content)
    if found is None:
        return
    position = len(content) - len(data)
    for tensor in sorted(found.values(), key=lambda each: (each.start, each.nbytes)):
        assert tensor.start == position
        position += tensor.nbytes
    assert position == len(content)


def entry(begin: Any, end: Any, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "reason"),
    [
        ({"a": entry(0, 4), "b": entry(0, 4)}, 4, "'b' starts"),
        ({"a": entry(0, 8, (2,)), "b": entry(4, 8)}, 8, "'b' starts"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "'b' starts"),
        ({"a": entry(4, 8)}, 8, "'a' starts"),
        ({"a": entry(0, 4)}, 3, "truncated"),
        ({"a": entry(0, 4)}, 5, "1 bytes that belong to no tensor"),
        ({}, 1, "belong to no tensor"),
        ({"a": entry(-4, 0)}, 0, "'a'"),
        ({"a": entry(4, 0)}, 4, "'a'"),
        ({"a": entry(0, 4, (-1,))}, 4, "'a'"),
        ({"a": entry(0, 4, (-1, -1))}, 4, "'a'"),
        ({"a": entry(0, 4, (True,))}, 4, "'a'"),
        ({"a": entry(0, 4, (1.0,))}, 4, "'a'"),
        ({"a": entry(0.0, 4.0)}, 4, "'a'"),
        ({"a": entry(False, True, (), "U8")}, 1, "'a'"),
        ({"a": entry("0", "4")}, 4, "'a'"),
        ({"a": entry(0, 8, (1,))}, 8, "takes 4 bytes"),
        ({"a": entry(0, 4, (2**62, 2**62))}, 4, "'a'"),
        ({"a": entry(0, 4, dtype="F33")}, 4, "'a'"),
        ({"a": entry(0, 4, dtype=None)}, 4, "'a'"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "'a'"),
        ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, "'a'"),
        ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4, "'a'"),
        ({"a": {**entry(0, 4), "data_offsets": [0, 2, 4]}}, 4, "'a'"),
        ({"a": None}, 0, "'a'"),
        ([], 0, "no JSON object"),
        (b"{", 0, "not JSON"),
        (b"", 0, "not JSON"),
        (b'{"a": \xff}', 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + b"9" * 5000 + b"]}}", 4, "not JSON"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_refused_with_the_reason(
    scratch: Path, header: Any, size: int, reason: str
) -> None:
    scratch.write_bytes(tensor_file(header, bytes(size)))
    with pytest.raises(TensorFileInvalid, match=reason) as caught:
        read_header(scratch)
    assert str(scratch) in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    ],
)
def test_a_name_that_stands_twice_is_refused(scratch: Path, header: bytes) -> None:
    scratch.write_bytes(tensor_file(header, b"\0"))
    with pytest.raises(TensorFileInvalid, match="twice"):
        read_header(scratch)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 100_000_001, 1000, 1])
def test_a_header_length_beyond_the_file_is_refused_before_anything_is_read(scratch: Path, length: int) -> None:
    scratch.write_bytes(struct.pack("<Q", length))
    with pytest.raises(TensorFileInvalid, match=f"header of {length}"):
        read_header(scratch)


@pytest.mark.parametrize("content", [b"", b"\0" * 7])
def test_a_file_too_short_for_a_header_length_is_refused(scratch: Path, content: bytes) -> None:
    assert reading(scratch, content) is None


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TensorFileInvalid, match=r"gone\.safetensors.*No such file"):
        read_header(tmp_path / "gone.safetensors")
    with pytest.raises(TensorFileInvalid, match="directory"):
        read_header(tmp_path)


def test_metadata_is_no_tensor(valid: bytes, scratch: Path) -> None:
    assert b"__metadata__" in valid
    found = reading(scratch, valid)
    assert found is not None
    assert set(found) == {"layer.weight", "norm.weight", "bias"}


@given(st.binary(min_size=2, max_size=64).map(lambda raw: raw[: len(raw) // 2 * 2]))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_as_torch_converts_it(scratch: Path, dtype: torch.dtype, raw: bytes) -> None:
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype)
    torch_files.save_file({"w": tensor}, scratch)
    np.testing.assert_array_equal(read_float32(read_header(scratch)["w"]), tensor.to(torch.float32).numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
def test_any_shape_reads_as_torch_converts_it(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    path = tmp_path / "t.safetensors"
    torch_files.save_file({"first": torch.ones(3, dtype=torch.uint8), "w": tensor}, path)
    values = read_float32(read_header(path)["w"])
    assert values.dtype == np.float32
    assert values.shape == shape
    np.testing.assert_array_equal(values, tensor.to(torch.float32).numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_tensor_reads_as_an_empty_array(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "t.safetensors"
    torch_files.save_file({"w": torch.zeros((0, 3), dtype=dtype)}, path)
    assert read_float32(read_header(path)["w"]).shape == (0, 3)


@pytest.fixture
def one(tmp_path: Path) -> Mapping[str, TensorLocation]:
    numpy_files.save_file({"w": np.zeros((2, 3), np.float32), "ids": np.zeros(2, np.int64)}, tmp_path / "one")
    return read_header(tmp_path / "one")


def test_require_gives_the_tensor_that_was_asked_for(one: Mapping[str, TensorLocation], tmp_path: Path) -> None:
    assert require(one, "w", (2, 3), tmp_path) is one["w"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("v", (2, 3), "folder has no tensor 'v'"),
        ("w", (3, 2), r"one tensor 'w' is shaped \[2, 3\], and \[3, 2\] is needed"),
        ("ids", (2,), "one tensor 'ids' is I64: one of F32, BF16, F16 is needed"),
    ],
)
def test_require_names_file_and_tensor(
    one: Mapping[str, TensorLocation], name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TensorFileInvalid, match=message):
        require(one, name, shape, Path("folder"))
