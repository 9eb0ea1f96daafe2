"""Safetensors files written tensor by tensor, tile by tile, under a temporary name.

The layout follows from names, number types and shapes alone, so the header is written first, a tensor may be filled in
at any later time, and a file that was begun can be gone on with by another process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..contracts.errors import FolderUnavailable, TensorFileInvalid
from .safetensors import ITEM_BYTES, STORED, map_tensor, read_header

Buffer = bytes | bytearray | memoryview
Block = tuple[slice, slice]
"""Rows and columns of a matrix."""

WHOLE: Block = (slice(None), slice(None))
_ALIGNMENT = 8
_CHUNK_BYTES = 1 << 22
_SYNC_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written: its name, number type (``F64``, ``F32``, ``BF16``, ``F16``) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class SafetensorsWriter:
    """A file at ``path`` that holds the tensors of ``specs``, and becomes a finished one when it is published.

    Wider number types come first, so that every tensor is aligned; otherwise the order is that of ``specs``.

    Raises:
        TensorFileInvalid: a file lies at ``path``, and it is not one that was begun with the same ``specs``.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        self._path = path
        self._specs = {spec.name: spec for spec in sorted(specs, key=lambda spec: -ITEM_BYTES[spec.dtype])}
        if len(self._specs) < len(specs):
            raise ValueError(f"a tensor is named twice: {[spec.name for spec in specs]}")
        self._blocks: list[tuple[str, Block, int]] = []
        self.blocks_read_back = 0
        """How many blocks were found on the disk as they were in memory."""
        self._left = sum(spec.nbytes for spec in self._specs.values())
        header, self._starts = _layout(self._specs.values())
        if path.exists():
            self._check_begun(header)
        else:
            self._begin(header)

    def write(self, name: str, tiles: Iterable[Buffer]) -> str:
        """Fill in tensor ``name``; its values are on the disk when this returns. Gives their sha256.

        Args:
            name: one of the specified tensors.
            tiles: the values' bytes in row order, little-endian, in pieces of any size.

        Raises:
            ValueError: the tiles hold more or fewer bytes than the tensor.
        """
        spec = self._specs[name]
        with self._path.open("r+b") as file:
            file.seek(self._starts[name])
            sink = _Sink(file, spec.nbytes)
            _feed(sink, tiles)
            sink.sync()
        if sink.written != spec.nbytes:
            raise ValueError(
                f"tensor {name!r} {spec.dtype}{list(spec.shape)} takes {spec.nbytes} bytes, not {sink.written}"
            )
        self._left -= spec.nbytes
        return sink.digest.hexdigest()

    def write_block(self, name: str, values: np.ndarray, block: Block = WHOLE) -> None:
        """Fill in ``values``, shaped as ``block`` of the tensor ``name`` (BF16 as ``uint16`` bits), in their place."""
        spec = self._specs[name]
        values = np.ascontiguousarray(values, dtype=STORED[spec.dtype])
        first, start = block[0].start or 0, self._starts[name]
        row_bytes = values.itemsize * math.prod(spec.shape[1:])
        with self._path.open("r+b") as file:
            if len(spec.shape) < 2 or values.shape[1] == spec.shape[1]:
                file.seek(start + first * row_bytes)
                file.write(values.data)
            else:
                for index, row in enumerate(values, start=first):
                    file.seek(start + index * row_bytes + block[1].start * values.itemsize)
                    file.write(row.data)
        self._left -= values.nbytes
        self._blocks.append((name, block, zlib.crc32(values.data)))

    def sha256(self, name: str) -> str:
        """Hash of the bytes that now stand for tensor ``name``."""
        digest, left = hashlib.sha256(), self._specs[name].nbytes
        with self._path.open("rb") as file:
            file.seek(self._starts[name])
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
        return digest.hexdigest()

    def finish(self) -> None:
        """Wait until all is on the disk.

        Raises:
            ValueError: not every byte was written, and just once.
        """
        if self._left:
            raise ValueError(f"{self._path}: {self._left} bytes of its tensors were not written")
        with self._path.open("r+b") as file:
            os.fsync(file.fileno())

    def read_back(self) -> None:
        """Read every block that was written, and hold it against what was in memory then; count them.

        Raises:
            OSError: they differ.
        """
        tensors = {name: map_tensor(tensor) for name, tensor in read_header(self._path).items()}
        for name, block, checksum in self._blocks:
            stored = tensors[name]
            part = np.ascontiguousarray(stored[block] if stored.ndim == 2 else stored)
            if zlib.crc32(part.data) != checksum:
                raise OSError(errno.EIO, f"tensor {name!r} is not read back as it was written", str(self._path))
            self.blocks_read_back += 1

    def _begin(self, header: bytes) -> None:
        """A file of its final length, put in place at once: one that exists has its header."""
        fresh = self._path.with_name(f".{self._path.name}.new")
        with fresh.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + sum(spec.nbytes for spec in self._specs.values()))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _check_begun(self, header: bytes) -> None:
        read_header(self._path)
        with self._path.open("rb") as file:
            if file.read(len(header)) != header:
                raise TensorFileInvalid(f"{self._path} was begun for other tensors, shapes or number types")


class _Sink:
    """Takes a tensor's tiles in turn: to the file, into a hash, and every so often on to the disk."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.digest = hashlib.sha256()
        self.written = 0
        self._file = file
        self._limit = limit
        self._unsynced = 0

    def take(self, tile: Buffer) -> None:
        """Write ``tile``, unless it reaches beyond the tensor."""
        self.written += len(tile)
        if self.written > self._limit:
            return
        self._file.write(tile)
        self.digest.update(tile)
        self._unsynced += len(tile)
        if self._unsynced >= _SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0


def _feed(sink: _Sink, tiles: Iterable[Buffer]) -> None:
    """Give ``tiles`` to ``sink`` on a thread of its own, so that one is stored while the next is computed."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="trinity-mlx-writer") as background:
        pending: Future[None] | None = None
        for tile in tiles:
            if pending:
                pending.result()
            pending = background.submit(sink.take, tile)
        if pending:
            pending.result()


@contextmanager
def new_safetensors(path: Path, specs: Sequence[TensorSpec]) -> Iterator[SafetensorsWriter]:
    """A new file that has its name when the ``with`` block has ended well, and else leaves nothing.

    What a killed process left goes when the next one begins. Blocks are read back before the file has its name.

    Raises:
        FolderUnavailable: it cannot be written.
        ValueError: the ``with`` block ended, and not every byte was written just once.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        writer = SafetensorsWriter(partial, specs)
        yield writer
        writer.finish()
        writer.read_back()
        partial.replace(path)
    except OSError as error:
        raise FolderUnavailable(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_safetensors(path: Path, tensors: Iterable[tuple[TensorSpec, Iterable[Buffer]]]) -> None:
    """A whole file of tensors, each given by its tiles, in place of what lay at ``path``.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    listed = list(tensors)
    with new_safetensors(path, [spec for spec, _ in listed]) as writer:
        for spec, tiles in listed:
            writer.write(spec.name, tiles)


def write_float32(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A whole file of ``arrays`` by name, each rounded to float32, in place of what lay at ``path``.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    exact = {name: np.ascontiguousarray(values, dtype="<f4") for name, values in arrays.items()}
    write_safetensors(
        path, ((TensorSpec(name, "F32", each.shape), [each.data.cast("B")]) for name, each in exact.items())
    )


def _layout(specs: Iterable[TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where each tensor starts."""
    entries, offsets, end = {}, {}, 0
    for spec in specs:
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.nbytes],
        }
        offsets[spec.name] = end
        end += spec.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}
