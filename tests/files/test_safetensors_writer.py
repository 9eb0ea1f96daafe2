"""Files written tile by tile, held against the safetensors library."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as numpy_files
from safetensors import safe_open
from safetensors import torch as torch_files
from safetensors.torch import load_file

from trinity_mlx.contracts.errors import FolderUnavailable, TensorFileInvalid
from trinity_mlx.files.safetensors import as_floats, map_tensor, read_header
from trinity_mlx.files.safetensors_writer import SafetensorsWriter, TensorSpec, new_safetensors, write_safetensors

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


def test_a_whole_file_replaces_what_was_there_and_what_was_left_over(tmp_path: Path) -> None:
    spec = TensorSpec("head", "F32", (2, 3))
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / ".f.partial").write_bytes(b"left over")
    write_safetensors(tmp_path / "f", [(spec, [values_for(spec)])])
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    with safe_open(tmp_path / "f", framework="np") as file:
        assert file.get_tensor("head").tobytes() == values_for(spec)


# --- blocks --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_blocks_in_any_order_give_the_file_that_another_library_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, step: int, by_columns: bool
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "file.safetensors"
    matrix = np.random.default_rng(rows * 100 + columns).normal(size=(rows, columns))
    length = columns if by_columns else rows
    parts = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    with new_safetensors(path, [TensorSpec("m", "F64", (rows, columns)), TensorSpec("n", "F32", ())]) as file:
        for part in reversed(parts):
            block = (slice(None), part) if by_columns else (part, slice(None))
            file.write_block("m", matrix[block], block)
        file.write_block("n", np.asarray(np.float32(2.5)))
    read = numpy_files.load_file(path)
    np.testing.assert_array_equal(read["m"], matrix)
    assert read["n"] == np.float32(2.5)


def test_tensors_of_every_number_type_lie_aligned(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with new_safetensors(path, [TensorSpec("b", "BF16", (3,)), TensorSpec("d", "F64", (1,))]) as file:
        file.write_block("b", torch.tensor([1.0, -2.0, 3.5]).bfloat16().view(torch.uint16).numpy())
        file.write_block("d", np.array([4.0]))
    assert all(location.start % 8 == 0 for name, location in read_header(path).items() if name == "d")
    read = torch_files.load_file(path)
    assert read["b"].tolist() == [1.0, -2.0, 3.5]
    assert read["d"].tolist() == [4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_parts_of_a_file_come_as_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(6, 4, dtype=torch.float64).to(dtype)
    torch_files.save_file({"t": tensor, "one": tensor[0, 0].clone()}, tmp_path / "file.safetensors")
    header = read_header(tmp_path / "file.safetensors")
    mapped = map_tensor(header["t"])
    np.testing.assert_array_equal(as_floats(mapped[2:5]), tensor[2:5].double().numpy())
    np.testing.assert_array_equal(as_floats(mapped[:, 1:3]), tensor[:, 1:3].double().numpy())
    assert as_floats(mapped[:1]).dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert as_floats(map_tensor(header["one"])[...]) == tensor[0, 0].double().item()


def test_an_empty_tensor_can_be_mapped(tmp_path: Path) -> None:
    numpy_files.save_file({"t": np.empty((0, 4), np.float32)}, tmp_path / "file.safetensors")
    assert map_tensor(read_header(tmp_path / "file.safetensors")["t"]).shape == (0, 4)


def test_a_failed_write_leaves_nothing_behind_and_what_was_there_in_place(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(IndexError), new_safetensors(path, [TensorSpec("t", "F32", (2,))]) as file:
        file.write_block("t", np.zeros((2, 2))[:, 5])
    assert [each.name for each in tmp_path.iterdir()] == ["file.safetensors"]
    assert path.read_bytes() == b"before"


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".file.safetensors.partial").write_bytes(b"half")
    with new_safetensors(tmp_path / "file.safetensors", [TensorSpec("t", "F32", (2,))]) as file:
        file.write_block("t", np.zeros(2))
    assert [each.name for each in tmp_path.iterdir()] == ["file.safetensors"]


def test_a_file_with_a_part_left_out_is_never_published(tmp_path: Path) -> None:
    specs = [TensorSpec("t", "F32", (4, 2))]
    with pytest.raises(ValueError, match="16 bytes"), new_safetensors(tmp_path / "file.safetensors", specs) as file:
        file.write_block("t", np.zeros((2, 2)), (slice(0, 2), slice(None)))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(FolderUnavailable, match="cannot be written"),
        new_safetensors(tmp_path / "file" / "stages.safetensors", []),
    ):
        pass


def test_what_the_disk_gives_back_otherwise_is_never_published(tmp_path: Path) -> None:
    """A medium that loses a bit between the write and the end is found out before the file has its name."""
    path, values = tmp_path / "x.safetensors", np.arange(6, dtype="<f4").reshape(2, 3)

    def write_and_lose_a_bit() -> None:
        with new_safetensors(path, [TensorSpec("a", "F32", (2, 3))]) as writer:
            writer.write_block("a", values)
            (partial,) = tmp_path.iterdir()
            raw = bytearray(partial.read_bytes())
            raw[-1] ^= 1
            partial.write_bytes(raw)

    with pytest.raises(FolderUnavailable, match="'a' is not read back as it was written"):
        write_and_lose_a_bit()
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_were_read_back_are_counted(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    with new_safetensors(tmp_path / "x.safetensors", [TensorSpec("a", "F32", (2, 3))]) as writer:
        for row in range(2):
            writer.write_block("a", values[row : row + 1], (slice(row, row + 1), slice(None)))
    assert writer.blocks_read_back == 2
