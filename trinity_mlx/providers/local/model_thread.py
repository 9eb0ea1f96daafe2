"""A loaded model and the thread that owns it: one for each folder and engine, shared by all agents that name it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, Protocol, TypeVar

from ...contracts.provider import OnText
from ...contracts.transcript import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate, whom to tell each piece of text, and how to learn that nobody waits for it any more.

    ``temperature`` 0 is greedy. ``template_options`` go to the tokenizer's chat template.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    template_options: Mapping[str, Any]
    on_text: OnText
    is_abandoned: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of it; ``is_cut`` where the token limit ended it."""

    text: str
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
_Job = tuple[Callable[[Engine], Any], "Future[Any]"]


class ModelThread:
    """Loads a model when it is first needed, and runs what is asked of it, one piece at a time, on one thread.

    MLX keeps its streams per thread, so a model is loaded, run and freed on one and the same. An executor would not
    do: its threads end before interpreter exit handlers run, and the streams must be cleared before that.
    """

    def __init__(self, open_engine: OpenEngine, folder: Path) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        thread = Thread(target=_serve, args=(self._jobs, open_engine, folder), name="trinity-mlx-model", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._jobs, thread)

    def submit(self, work: Callable[[Engine], T]) -> Future[T]:
        """Do ``work`` with the model, after what was asked before it."""
        done: Future[T] = Future()
        self._jobs.put((work, done))
        return done

    def close(self) -> None:
        """Finish what was asked, free the model and end the thread."""
        self._stop()


def _serve(jobs: SimpleQueue[_Job | None], open_engine: OpenEngine, folder: Path) -> None:
    engine: Engine | None = None
    while (job := jobs.get()) is not None:
        work, done = job
        if done.set_running_or_notify_cancel():
            try:
                engine = engine or open_engine(folder)
                done.set_result(work(engine))
            except BaseException as error:
                done.set_exception(error)
        del job, work, done
    if engine:
        engine.close()


def _stop(jobs: SimpleQueue[_Job | None], thread: Thread) -> None:
    jobs.put(None)
    if thread is not current_thread():
        thread.join()


@dataclass(slots=True)
class _Held:
    thread: ModelThread
    users: int = 0


_shared: dict[tuple[OpenEngine, Path], _Held] = {}
_lock = Lock()


class SharedModel:
    """One user's hold on a model; the last one to close it frees it."""

    def __init__(self, open_engine: OpenEngine, folder: Path) -> None:
        self._key = (open_engine, folder.resolve())
        with _lock:
            if self._key not in _shared:
                _shared[self._key] = _Held(ModelThread(*self._key))
            self._held = _shared[self._key]
            self._held.users += 1
        self._is_open = True

    def submit(self, work: Callable[[Engine], T]) -> Future[T]:
        """Do ``work`` with the model, after what anybody asked before."""
        return self._held.thread.submit(work)

    def close(self) -> None:
        """Let go of the model; a second time does nothing. Waits for work under way where nobody else uses it."""
        with _lock:
            if not self._is_open:
                return
            self._is_open = False
            self._held.users -= 1
            if self._held.users:
                return
            del _shared[self._key]
        self._held.thread.close()
