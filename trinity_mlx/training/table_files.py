"""The files that a table lies in: JSONL, CSV or Parquet, plain or compressed, told apart by their first bytes."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from ..contracts.canonical import unique_keys
from ..contracts.errors import TableInvalid, UsageError
from ..files.atomic import write_file
from ..files.regular import open_regular

Record = dict[str, Any]

_COMPRESSED: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    b"\xfd7zXZ": lambda file: cast(IO[bytes], lzma.LZMAFile(file)),  # noqa: SIM115  the caller closes it
    b"\x28\xb5\x2f\xfd": lambda file: _zstandard(file),
}
_PARQUET = b"PAR1"
_NESTED = ("scores", "costs", "seconds", "turns", "runs", "responses")
_MARK = b"\xef\xbb\xbf"
_LONGEST_CELL = 1 << 28
_OTHER_FORMATS = (".csv", ".parquet", ".bz2", ".xz", ".zst", ".zip")
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """The rows of a file as they stand there, each with its number: of the line, in Parquet of the row, from 1.

    In CSV and in Parquet a column named ``scores.AGENT`` (or ``costs.``, ``seconds.``, ``turns.``, ``runs.``) is one
    agent's; an empty cell is a missing value, and repeated scores in one cell of CSV are separated by semicolons.

    Raises:
        TableInvalid: the file cannot be read, or a line is none.
    """
    try:
        with open_regular(path) as (file, _):
            first = file.read(6)
        yield from _parquet(path) if first.startswith(_PARQUET) else _text_records(path, first)
    except _UNREADABLE as error:
        raise TableInvalid(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSONL, whole or not at all; compressed where the name ends in ``.gz``.

    Raises:
        UsageError: the name is that of another format.
        FolderUnavailable: the file cannot be written.
    """
    wrong = next((suffix for suffix in path.suffixes if suffix.lower() in _OTHER_FORMATS), None)
    if wrong:
        raise UsageError(
            f"{path}: what is written is JSONL, and {wrong} says another format: name it .jsonl or .jsonl.gz"
        )
    text = "".join(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)
    content = text.encode("utf-8", "surrogatepass")
    write_file(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _text_records(path: Path, first: bytes) -> Iterator[tuple[int, Record]]:
    with open_regular(path) as (raw, _):
        opened = next((opener for magic, opener in _COMPRESSED.items() if first.startswith(magic)), None)
        with opened(raw) if opened else raw as file:
            is_csv = any(suffix.lower() == ".csv" for suffix in path.suffixes)
            yield from _csv(path, file) if is_csv else _jsonl(path, file)


def _jsonl(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(_MARK) if number == 1 else line
        if not text.strip():
            continue
        try:
            record = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise TableInvalid(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise TableInvalid(f"{path} line {number} is {record!r:.60}, and an object is needed")
        yield number, record


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _zstandard(file: IO[bytes]) -> IO[bytes]:
    try:
        from pyarrow import CompressedInputStream  # type: ignore[import-untyped]
    except ImportError:
        raise TableInvalid("a table in Zstandard: reading it takes `pip install trinity-mlx[train]`") from None
    return io.BufferedReader(CompressedInputStream(file, "zstd"))


def _csv(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Record]]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        csv.field_size_limit(_LONGEST_CELL)  # of the process; the module's own is shorter than a long prompt
        reader = csv.reader(text, strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names):
                raise TableInvalid(f"{path}: a column stands there twice")
            for cells in reader:
                if len(cells) != len(names):
                    raise TableInvalid(f"{path} line {reader.line_num} has {len(cells)} cells, not {len(names)}")
                yield reader.line_num, _nested(path, reader.line_num, dict(zip(names, cells, strict=True)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableInvalid(f"{path} line {reader.line_num + 1} is not CSV in UTF-8: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[int, Record]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise TableInvalid(f"{path} is Parquet: reading it takes `pip install trinity-mlx[train]`") from None
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, _nested(path, number, record)
    except ArrowException as error:
        raise TableInvalid(f"{path} is no sound Parquet file: {error}") from None


def _nested(path: Path, line: int, flat: Record) -> Record:
    """``flat`` with the columns ``scores.AGENT`` gathered under ``scores``, and texts there read as numbers."""
    record: Record = {}
    for name, value in flat.items():
        whole, _, agent = name.partition(".")
        if value is None or value == "":
            continue
        if agent and whole in _NESTED:
            record.setdefault(whole, {})[agent] = _parsed(path, line, name, value)
        else:
            record[name] = _messages(path, line, value) if name == "messages" and isinstance(value, str) else value
    return record | {name: _unpaired(record[name]) for name in _NESTED if name in record}


def _unpaired(value: Any) -> Any:
    """An object for a map of Parquet, which is read as a list of pairs; as it is where a name stands there twice."""
    is_map = isinstance(value, list) and all(isinstance(pair, tuple) and isinstance(pair[0], str) for pair in value)
    return dict(value) if is_map and len(dict(value)) == len(value) else value


def _messages(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise TableInvalid(f"{path} line {line}: messages is {text[:60]!r}, and a list as JSON is needed") from None


def _parsed(path: Path, line: int, name: str, value: Any) -> Any:
    if not isinstance(value, str) or name.startswith("responses."):
        return value
    try:
        if name.startswith("runs."):
            return [float(part) for part in value.split(";")]
        return float(value)
    except ValueError:
        raise TableInvalid(f"{path} line {line}: {name} is {value[:60]!r}, and a number is needed") from None
