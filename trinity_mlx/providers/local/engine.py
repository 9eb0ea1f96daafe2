"""A loaded model and the thread that owns it: one for each folder and engine, shared by all agents that name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ...contracts.provider import OnText, ResponseFormat, Tool
from ...contracts.transcript import Message
from ...sharing.leases import SharedPool
from ...sharing.owner import OwnerThread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate, whom to tell each piece of text, and how to learn that nobody waits for it any more.

    ``temperature`` 0 is greedy; ``seed`` None takes whatever comes. ``template_options`` go to the tokenizer's chat
    template.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    template_options: Mapping[str, Any]
    on_text: OnText
    is_abandoned: Callable[[], bool]
    tools: tuple[Tool, ...] = ()
    response_format: ResponseFormat | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of it, all text having been told; ``is_cut`` where the token limit ended it."""

    prompt_tokens: int
    generated_tokens: int
    is_cut: bool


class Engine(Protocol):
    """A model in the memory of the thread that made it; every method is called on that thread."""

    def generate(self, wanted: Generation) -> Generated:
        """Carry it out; stops between two tokens once it is abandoned.

        Raises:
            PromptRefused: the messages do not fit the model or its chat template.
        """

    def close(self) -> None:
        """Free what the model holds."""


class PromptRefused(Exception):
    """The messages do not fit the model or its chat template."""


OpenEngine = Callable[[Path], Engine]


class _Model(OwnerThread[Engine]):
    """The thread of one model; nothing of it is kept once nobody uses it."""

    nbytes = 0

    def __init__(self, open_engine: OpenEngine, folder: Path) -> None:
        super().__init__(lambda: closing(open_engine(folder)), name="trinity-mlx-model")


_models: SharedPool[tuple[OpenEngine, Path], _Model] = SharedPool(max_idle_bytes=0, dispose=_Model.close)


class SharedModel:
    """One user's hold on a model, loaded when it is first needed; the last one to close it frees it."""

    def __init__(self, open_engine: OpenEngine, folder: Path) -> None:
        key = (open_engine, folder.resolve())
        self._lease = _models.lease(key, lambda: _Model(*key))

    def submit(self, work: Callable[[Engine], T]) -> Future[T]:
        """Do ``work`` with the model, after what anybody asked before."""
        return self._lease.value.submit(work)

    def close(self) -> None:
        """Let go of the model; a second time does nothing. Waits for work under way where nobody else uses it."""
        self._lease.release()
