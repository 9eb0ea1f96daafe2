"""One thread that reads for everybody: what is asked while it reads goes into its next pass together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from ..contracts.backend import Past
from ..contracts.routing import RouteLogits
from ..sharing.owner import OwnerThread
from .prefix_cache import Tokens

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answer:
    """Logits of one token sequence, and how many of its tokens did not have to be read for them."""

    logits: RouteLogits
    reused: int


@dataclass(eq=False, slots=True)
class Ask:
    """One caller's wish: the tokens that must be known for its answer, and what may be remembered of them.

    ``keep`` keeps keys and values of a sequence that may continue; ``remember`` allows the use of both memories.
    ``count`` is the length of the whole sequence, ``past`` and ``reuse`` are what has been found to begin from.
    """

    tokens: Tokens
    count: int
    keep: bool
    remember: bool
    past: Past | None = None
    reuse: int = 0
    future: Future[Answer] = field(default_factory=Future)

    @property
    def fresh(self) -> int:
        """How many tokens have to be read."""
        return len(self.tokens) - self.reuse

    def begin(self) -> bool:
        """Whether anybody still waits for the answer; from here on it cannot be cancelled any more."""
        return self.future.running() or (not self.future.done() and self.future.set_running_or_notify_cancel())

    def settle(self, answer: Answer) -> None:
        """Give the answer."""
        if self.begin():
            self.future.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Give the reason why there is none."""
        if self.begin():
            self.future.set_exception(error)


class Batcher:
    """Takes whatever was asked during a pass, has it prepared together, and reads it in passes of a bounded size.

    Args:
        prepare: called once with all that came in together; it may answer some, and say where the others begin from.
        read: reads one batch and answers it; what it raises, every ask of that batch raises.
        batch_tokens: how many tokens a pass may read; a longer sequence is read alone.

    Both are called on the batcher's own thread alone, so what they share needs no lock. An ask that is cancelled before
    its pass begins is not read.
    """

    def __init__(
        self, prepare: Callable[[list[Ask]], None], read: Callable[[list[Ask]], None], batch_tokens: int
    ) -> None:
        self._prepare = prepare
        self._read = read
        self._batch_tokens = batch_tokens
        self._arrived: deque[Ask] = deque()
        self._waiting: deque[Ask] = deque()
        self._is_due = False
        self._watchers: list[Callable[[int], object]] = []
        self._thread: OwnerThread[None] = OwnerThread(nullcontext, name="trinity-mlx-reader")

    def submit(self, asks: Sequence[Ask]) -> None:
        """Have ``asks`` answered; those of one call are prepared together."""
        self._arrived.extend(asks)
        self._schedule()

    @property
    def queued(self) -> int:
        """How many asks wait for a pass to begin."""
        return len(self._arrived) + len(self._waiting)

    def watch(self, observe: Callable[[int], object]) -> Callable[[], None]:
        """Have ``observe`` told how many asks each pass reads together, until what is returned is called.

        It is called on the batcher's thread, and must neither wait nor raise.
        """
        self._watchers.append(observe)

        def end() -> None:
            if observe in self._watchers:
                self._watchers.remove(observe)

        return end

    def run(self, work: Callable[[], R]) -> Future[R]:
        """Have ``work`` done between two passes."""
        return self._thread.submit(lambda _: work())

    def close(self) -> None:
        """Finish what was asked, and end the thread."""
        self._thread.close()

    def _schedule(self) -> None:
        """Have a pass begin, unless one is due that has not taken anything yet; two at once do no harm."""
        if not self._is_due:
            self._is_due = True
            self._thread.submit(self._pass)

    def _pass(self, _: None) -> None:
        """One pass, and another one later while anything waits: work between two passes has its turn."""
        self._is_due = False  # before anything is taken: who comes later has a pass of their own
        arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
        _carry_out(self._prepare, [ask for ask in arrived if not ask.future.done()])
        self._waiting.extend(ask for ask in arrived if not ask.future.done())
        batch = self._next_batch()
        for observe in tuple(self._watchers) if batch else ():
            observe(len(batch))
        _carry_out(self._read, batch)
        if self._waiting:
            self._schedule()

    def _next_batch(self) -> list[Ask]:
        """The asks that waited longest and fit into one pass."""
        batch: list[Ask] = []
        room = self._batch_tokens
        while self._waiting and (not batch or self._waiting[0].fresh <= room):
            ask = self._waiting.popleft()
            if ask.begin():
                batch.append(ask)
                room -= ask.fresh
        return batch


def _carry_out(work: Callable[[list[Ask]], None], asks: list[Ask]) -> None:
    """Have ``work`` done with ``asks``, if there are any; what it raises, each of them that has no answer raises."""
    if not asks:
        return
    try:
        work(asks)
    except BaseException as error:
        for ask in asks:
            ask.fail(error)
