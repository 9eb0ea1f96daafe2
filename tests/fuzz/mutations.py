"""Files with a fault in them, drawn from a seed: bytes, JSON and safetensors headers."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    -(2**63),
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "a\0b",
    "\ud800",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a\nb\u2028c",
    "A" * 64,
    "f" * 64,
    "http://user:hunter2secret@host/x",
    [],
    {},
    [[]],
    [{}],
    {"a": {"b": []}},
    [0] * 300,
)
BYTES = (b"", b"\0", b"\xff", b"{", b"}", b'"', b"[" * 3000, b"\x93NUMPY", b"PK\x03\x04", b"\n", b",", b"NaN", b"1e999")


def mutated_bytes(draw: Random, content: bytes) -> bytes:
    """``content`` with one to three spans changed, cut out, doubled or put in, or torn at one end."""
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(content) + 1)
        end = min(len(content), start + draw.choice((0, 1, 1, 2, 8, 200)))
        middle = draw.choice((b"", draw.choice(BYTES), draw.randbytes(draw.randint(1, 9)), content[start:end] * 2))
        content = content[:start] + middle + content[end:]
        if draw.random() < 0.1:
            content = draw.choice((content[:start], content[start:]))
    return content


def mutated_json(draw: Random, value: Any) -> bytes:
    """``value`` with one to three places replaced, removed, renamed or doubled, as JSON; now and then torn besides."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        value = _mutated(draw, value)
    content = json.dumps(value, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        content = content.replace(b'": ', b'": 1, "' + content[2:8].replace(b'"', b"") + b'": ', 1)
    return mutated_bytes(draw, content) if draw.random() < 0.15 else content


def _mutated(draw: Random, value: Any) -> Any:
    *parents, key = draw.choice(places(value) or [()]) or (None,)
    if key is None:
        return draw.choice(STRANGE)
    holder = value
    for parent in parents:
        holder = holder[parent]
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice((f"{key}x", "x" * 2000, "\ud800", "", "version"))] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * draw.choice((-1, 2, 2**40)) + draw.choice((-1, 1))
        case 4 if isinstance(holder[key], str) and holder[key]:
            spot = draw.randrange(len(holder[key]))
            holder[key] = holder[key][:spot] + draw.choice(("", "\0", "/", "..", "é", " ")) + holder[key][spot + 1 :]
        case _:
            holder[key] = copy.deepcopy(draw.choice(STRANGE))
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in pairs for place in [(*path, key), *places(item, (*path, key))]]


def mutated_tensors(draw: Random, content: bytes) -> bytes:
    """A safetensors file with a fault in its header, whose length is mostly put right; or with one in its bytes."""
    if draw.random() < 0.2:
        return mutated_bytes(draw, content)
    length = int.from_bytes(content[:8], "little")
    header = mutated_json(draw, json.loads(content[8 : 8 + length]))
    stated = len(header) if draw.random() < 0.9 else draw.choice((0, length, 2**63, 2**64 - 1))
    return stated.to_bytes(8, "little") + header + content[8 + length :]


def _nothing(path: Path) -> None:
    """Leave nothing there."""


ODD_FILES: tuple[Callable[[Path], None], ...] = (
    _nothing,
    lambda path: path.mkdir(),
    lambda path: os.mkfifo(path),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("/etc/passwd"),
)
"""What may lie in a file's place instead of it."""


def put_odd_file(draw: Random, path: Path) -> None:
    """Put something that is no regular file of this folder in the place of ``path``."""
    clear(path)
    draw.choice(ODD_FILES)(path)


def clear(path: Path) -> None:
    """Whatever lies at ``path`` is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
