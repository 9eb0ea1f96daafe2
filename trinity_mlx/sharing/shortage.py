"""A device that has run out of memory in the middle of something: one error in words, and nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ..contracts.errors import NotEnoughMemory

P = ParamSpec("P")
R = TypeVar("R")


def within_memory_of(
    framework: str, ran_out: Callable[[Exception], bool], give_back: Callable[[], None]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for work of ``framework`` that may run out of memory.

    Args:
        framework: its name, for people.
        ran_out: whether an error says that a device has no memory left.
        give_back: what frees the memory that the framework keeps for later.

    Raises:
        NotEnoughMemory: by the decorated work, where the device had no memory left for it.
    """

    def guarded(work: Callable[P, R]) -> Callable[P, R]:
        @wraps(work)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return work(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError) or ran_out(error)):
                    raise
                reason = " ".join(str(error).split("\n", 1)[0].split())[:200] or "no reason given"
            # out here the error is gone, and with it its frames, which held what had been loaded
            give_back()
            raise NotEnoughMemory(
                f"{framework} ran out of memory: {reason}; free some, read less at once, or use another device"
            )

        return run

    return guarded
