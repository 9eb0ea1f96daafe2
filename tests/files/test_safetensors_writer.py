"""Files written tile by tile, held against the safetensors library."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from trinity_mlx.contracts.errors import TensorFileInvalid
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.files.safetensors_writer import SafetensorsWriter, TensorSpec, write_safetensors

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
tables = st.dictionaries(
    names.filter(lambda name: name != "__metadata__"), st.tuples(st.sampled_from([*DTYPES]), shapes)
)


def values_for(spec: TensorSpec, seed: int = 0) -> bytes:
    draw = np.random.default_rng(seed + len(spec.name))
    return torch.from_numpy(draw.normal(size=spec.shape)).to(DTYPES[spec.dtype]).view(torch.uint8).numpy().tobytes()


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@given(table=tables, size=st.integers(1, 50), seed=st.integers(0, 99))
def test_what_is_written_is_what_another_library_reads(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, tuple[str, tuple[int, ...]]], size: int, seed: int
) -> None:
    specs = [TensorSpec(name, dtype, shape) for name, (dtype, shape) in table.items()]
    path = tmp_path_factory.mktemp("written") / "f"
    writer = SafetensorsWriter(path, specs)
    for spec in np.random.default_rng(seed).permutation(np.array(specs, dtype=object)):
        digest = writer.write(spec.name, pieces(values_for(spec), size))
        assert digest == writer.sha256(spec.name) == hashlib.sha256(values_for(spec)).hexdigest()
    found = load_file(path)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == {
        spec.name: (DTYPES[spec.dtype], spec.shape) for spec in specs
    }
    for spec in specs:
        assert found[spec.name].contiguous().view(torch.uint8).numpy().tobytes() == values_for(spec)


def test_every_tensor_is_aligned_to_its_number_type(tmp_path: Path) -> None:
    SafetensorsWriter(tmp_path / "f", [TensorSpec("odd", "BF16", (3,)), TensorSpec("wide", "F32", (5,))])
    assert all(tensor.start % 4 == 0 for tensor in read_header(tmp_path / "f").values() if tensor.dtype == "F32")


def test_the_bytes_do_not_depend_on_the_order_or_the_number_of_writers(tmp_path: Path) -> None:
    specs = [TensorSpec(name, "BF16", (4, 3)) for name in "abc"]
    for path, order in ((tmp_path / "one", "abc"), (tmp_path / "other", "cba")):
        for name in order:
            SafetensorsWriter(path, specs).write(name, [values_for(TensorSpec(name, "BF16", (4, 3)), ord(name))])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_tensor_may_be_written_again(tmp_path: Path) -> None:
    spec = TensorSpec("w", "F32", (3, 4))
    writer = SafetensorsWriter(tmp_path / "f", [spec])
    with pytest.raises(ValueError, match="takes 48 bytes, not 47"):
        writer.write("w", [b"x" * 47])
    writer.write("w", [values_for(spec)])
    assert writer.sha256("w") == hashlib.sha256(values_for(spec)).hexdigest()


@pytest.mark.parametrize("count", [0, 11, 13])
def test_a_wrong_number_of_bytes_is_refused_and_reaches_no_neighbour(tmp_path: Path, count: int) -> None:
    specs = [TensorSpec("a", "F32", (3,)), TensorSpec("b", "F32", (3,))]
    writer = SafetensorsWriter(tmp_path / "f", specs)
    writer.write("b", [values_for(specs[1])])
    with pytest.raises(ValueError, match=rf"'a' F32\[3\] takes 12 bytes, not {count}"):
        writer.write("a", [b"x" * count])
    assert writer.sha256("b") == hashlib.sha256(values_for(specs[1])).hexdigest()


def test_a_name_may_stand_only_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        SafetensorsWriter(tmp_path / "f", [TensorSpec("a", "F32", (3,)), TensorSpec("a", "F16", (3,))])


@pytest.mark.parametrize(
    "other",
    [
        [TensorSpec("a", "F32", (3,))],
        [TensorSpec("a", "F32", (4,)), TensorSpec("b", "F16", (2,))],
        [TensorSpec("a", "F32", (3,)), TensorSpec("c", "F16", (2,))],
        [TensorSpec("a", "F32", (3,)), TensorSpec("b", "BF16", (2,))],
    ],
)
def test_a_file_begun_for_other_tensors_is_refused(tmp_path: Path, other: list[TensorSpec]) -> None:
    SafetensorsWriter(tmp_path / "f", [TensorSpec("a", "F32", (3,)), TensorSpec("b", "F16", (2,))])
    with pytest.raises(TensorFileInvalid, match="begun for other tensors"):
        SafetensorsWriter(tmp_path / "f", other)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path, specs = tmp_path / "f", [TensorSpec("a", "F32", (30,))]
    SafetensorsWriter(path, specs)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TensorFileInvalid, match="truncated"):
        SafetensorsWriter(path, specs)


def test_publishing_replaces_the_target_at_once(tmp_path: Path) -> None:
    target, spec = tmp_path / "target", TensorSpec("a", "F32", (3,))
    target.write_bytes(b"old")
    writer = SafetensorsWriter(tmp_path / "partial", [spec])
    writer.write("a", [values_for(spec)])
    assert target.read_bytes() == b"old"
    writer.publish(target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert list(load_file(target)) == ["a"]


def test_a_whole_file_replaces_what_was_there_and_what_was_left_over(tmp_path: Path) -> None:
    spec = TensorSpec("head", "F32", (2, 3))
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / ".f.partial").write_bytes(b"left over")
    write_safetensors(tmp_path / "f", [(spec, values_for(spec))])
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    with safe_open(tmp_path / "f", framework="np") as file:
        assert file.get_tensor("head").tobytes() == values_for(spec)
