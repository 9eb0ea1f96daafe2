"""Faulty files of every format: read, or refused by an error for people; never anything else, and never for ever."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.errors import TrinityError

from .formats import Format, formats

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(autouse=True)
def _waiting_for_ever_is_an_error() -> Iterator[None]:
    """What takes 30 s of the processor's time for a small file would never end: a signal breaks it off."""

    def give_up(number: int, frame: object) -> None:
        raise RuntimeError("it does not end")

    before = signal.signal(signal.SIGPROF, give_up)
    yield
    signal.signal(signal.SIGPROF, before)


SHORT = 50
"""Cases of one format in a short run."""

LONGEST = 4000
"""Characters of a message, whatever stood in the file."""

NAMES = [
    *("manifest", "manifest sealed again", "adapter sealed again", "head sealed again", "published", "base"),
    *("sharded base", "vector.npy", "vector.safetensors", "component export", "export state", "stages"),
    *("fetch record", "hash memory", "pin", "suite", "snapshot", "lane", "authority", "pool", "profile"),
    *("script.toml", "script.json", "policy", "trace", "transcript"),
]


@pytest.fixture(scope="module")
def makers(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Base, tiny_bundle: Bundle, tiny_head: np.ndarray
) -> dict[str, Callable[[], Format]]:
    return formats(tmp_path_factory.mktemp("formats"), tiny_base, tiny_bundle, tiny_head)


def test_every_format_is_tried(makers: dict[str, Callable[[], Format]]) -> None:
    assert sorted(makers) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_faulty_file_is_read_or_refused(
    makers: dict[str, Callable[[], Format]],
    cases: int | None,
    seed: int,
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    kind = makers[name]().remember()
    kind.read(kind.folder)
    refused = 0
    for case in range(cases or SHORT):
        kind.break_one(Random(f"{seed}:{name}:{case}"))
        refused += not _reads(kind.folder, kind.read, f"{seed}:{name}:{case}")
    record_property("refused", f"{refused} of {cases or SHORT}")
    assert refused or name == "hash memory", "a memory that is no good is done without"


def _reads(folder: Path, read: Callable[[Path], object], seed: str) -> bool:
    signal.setitimer(signal.ITIMER_PROF, 30)
    try:
        read(folder)
    except TrinityError as error:
        if len(str(error)) > LONGEST:
            pytest.fail(f"{seed}: a message of {len(str(error))} characters")
        return False
    except Exception as error:
        raise AssertionError(f"{seed} in {folder}: {type(error).__name__}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return True
