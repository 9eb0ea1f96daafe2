"""Large safetensors files: written block by block, read through a map, whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as numpy_files
from safetensors import torch as torch_files

from trinity_mlx.contracts.errors import FolderUnavailable, ParitySetupError
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.parity.blocks import BlockFile, MappedTensor, TensorSpec
from trinity_mlx.parity.report import begin_report, read_report, write_report


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_blocks_in_any_order_give_the_file_that_another_library_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, step: int, by_columns: bool
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "file.safetensors"
    matrix = np.random.default_rng(rows * 100 + columns).normal(size=(rows, columns))
    length = columns if by_columns else rows
    parts = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    with BlockFile(path, {"m": TensorSpec("F64", (rows, columns)), "n": TensorSpec("F32", ())}) as file:
        for part in reversed(parts):
            block = (slice(None), part) if by_columns else (part, slice(None))
            file.write("m", matrix[block], block)
        file.write("n", np.asarray(np.float32(2.5)))
    read = numpy_files.load_file(path)
    np.testing.assert_array_equal(read["m"], matrix)
    assert read["n"] == np.float32(2.5)


def test_tensors_of_every_number_type_lie_aligned(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with BlockFile(path, {"b": TensorSpec("BF16", (3,)), "d": TensorSpec("F64", (1,))}) as file:
        file.write("b", torch.tensor([1.0, -2.0, 3.5]).bfloat16().view(torch.uint16).numpy())
        file.write("d", np.array([4.0]))
    assert all(location.start % 8 == 0 for name, location in read_header(path).items() if name == "d")
    read = torch_files.load_file(path)
    assert read["b"].tolist() == [1.0, -2.0, 3.5]
    assert read["d"].tolist() == [4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_parts_of_a_file_come_as_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(6, 4, dtype=torch.float64).to(dtype)
    torch_files.save_file({"t": tensor, "one": tensor[0, 0].clone()}, tmp_path / "file.safetensors")
    header = read_header(tmp_path / "file.safetensors")
    mapped = MappedTensor(header["t"])
    np.testing.assert_array_equal(mapped[slice(2, 5)], tensor[2:5].double().numpy())
    np.testing.assert_array_equal(mapped[(slice(None), slice(1, 3))], tensor[:, 1:3].double().numpy())
    assert mapped[slice(0, 1)].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert MappedTensor(header["one"])[slice(None)] == tensor[0, 0].double().item()


def test_an_empty_tensor_can_be_mapped(tmp_path: Path) -> None:
    numpy_files.save_file({"t": np.empty((0, 4), np.float32)}, tmp_path / "file.safetensors")
    assert MappedTensor(read_header(tmp_path / "file.safetensors")["t"])[slice(None)].shape == (0, 4)


def test_a_failed_write_leaves_nothing_behind_and_what_was_there_in_place(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(IndexError), BlockFile(path, {"t": TensorSpec("F32", (2,))}) as file:
        file.write("t", np.zeros((2, 2))[:, 5])
    assert [each.name for each in tmp_path.iterdir()] == ["file.safetensors"]
    assert path.read_bytes() == b"before"


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".file.safetensors.1").write_bytes(b"half")
    with BlockFile(tmp_path / "file.safetensors", {"t": TensorSpec("F32", (2,))}) as file:
        file.write("t", np.zeros(2))
    assert [each.name for each in tmp_path.iterdir()] == ["file.safetensors"]


def test_a_file_with_a_part_left_out_is_never_published(tmp_path: Path) -> None:
    specs = {"t": TensorSpec("F32", (4, 2))}
    with pytest.raises(ValueError, match="16 bytes"), BlockFile(tmp_path / "file.safetensors", specs) as file:
        file.write("t", np.zeros((2, 2)), (slice(0, 2), slice(None)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderUnavailable, match="cannot be written"):
        BlockFile(tmp_path / "file" / "stages.safetensors", {})
    with pytest.raises(FolderUnavailable, match="cannot be written"):
        begin_report(tmp_path / "file")


def test_a_report_goes_round(tmp_path: Path) -> None:
    components = {"method": "gram", "dtype": "float64", "sha256": "a" * 64}
    write_report(tmp_path, {"components": components, "tensors": [{"name": "t"}]})
    report = read_report(tmp_path)
    assert (report.components, report.components_dtype, report.tensors) == ("a" * 64, "float64", ("t",))


def test_beginning_anew_makes_a_finished_bundle_unfinished(tmp_path: Path) -> None:
    write_report(tmp_path, {"components": {"sha256": "a" * 64, "dtype": "float32"}, "tensors": []})
    begin_report(tmp_path)
    with pytest.raises(ParitySetupError, match="no finished stage bundle"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema": "trinity-mlx.parity.stages", "version": 2}',
        '{"schema": "trinity-mlx.parity.stages", "version": 1, "components": {"sha256": "zz", "dtype": "float32"}}',
        '{"schema": "x", "version": 1, "components": {"sha256": "%s", "dtype": "f"}, "tensors": []}' % ("a" * 64),
        "[" * 100_000,
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ParitySetupError, match=r"report\.json"):
        read_report(tmp_path)
