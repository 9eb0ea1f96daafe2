"""``await router.read``: logits for programs that do much at once, without holding up their event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trinity_mlx import Router, load_router
from trinity_mlx.contracts.backend import BackendInfo, Segment
from trinity_mlx.contracts.errors import ContextLengthError, TranscriptError
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.leases import ModelRegistry

from ..builders import relative

PROMPTS = [f"Question {number}: what follows from {number * 7}?" for number in range(12)]


class Watched:
    """The torch backend, noting what its models read; reads wait while ``gate`` is shut."""

    def __init__(self) -> None:
        self._inner = load_backend("torch")
        self.reads: list[list[Segment]] = []
        self.begun, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def shut(self) -> None:
        """Let the next read begin and wait; what was read before, by checks at loading say, is forgotten."""
        self.gate.clear()
        self.begun.clear()
        self.reads.clear()

    def info(self) -> BackendInfo:
        return self._inner.info()

    def load_base(self, *arguments: Any, **options: Any) -> Any:
        base = self._inner.load_base(*arguments, **options)
        attach = base.attach

        def watched(*parts: Any, **how: Any) -> Any:
            return _Model(attach(*parts, **how), self)

        return SimpleNamespace(nbytes=base.nbytes, attach=watched)


class _Model:
    def __init__(self, inner: Any, owner: Watched) -> None:
        self._inner, self._owner = inner, owner
        self.nbytes, self.batch_tokens = inner.nbytes, inner.batch_tokens
        self.read, self.values = inner.read, inner.values

    def logits(self, segments: Sequence[Segment]) -> Any:
        self._owner.reads.append(list(segments))
        self._owner.begun.set()
        self._owner.gate.wait(60)
        return self._inner.logits(segments)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def registry() -> ModelRegistry:
    return ModelRegistry()


@pytest.fixture
def router(tiny_folders: dict[str, Path], watched: Watched, registry: ModelRegistry) -> Iterator[Router]:
    with load_router(**tiny_folders, profile="cpu", dtype="float32", backend=watched, registry=registry) as router:
        yield router


async def all_queued(router: Router, count: int) -> None:
    """Wait until ``count`` transcripts wait to be read; the time limit of tests ends it if they never do."""
    while router.queued < count:
        await asyncio.sleep(0.001)


def test_a_read_is_what_route_decides_from(router: Router) -> None:
    async def read() -> Any:
        return await router.read(PROMPTS[0])

    read_, decision = asyncio.run(read()), router.route(PROMPTS[0])
    assert read_.logits == decision.logits
    assert (read_.token_count, read_.transcript_hash) == (decision.token_count, decision.transcript_hash)
    assert (read_.reused, decision.reused_tokens) == (0, decision.token_count)


def test_what_is_asked_during_a_read_is_read_together(router: Router, watched: Watched) -> None:
    async def read_all() -> list[Any]:
        watched.shut()
        first = asyncio.create_task(router.read(PROMPTS[0]))
        await asyncio.to_thread(watched.begun.wait, 60)
        others = [asyncio.create_task(router.read(prompt)) for prompt in PROMPTS[1:]]
        await all_queued(router, len(others))
        watched.gate.set()
        return [await each for each in (first, *others)]

    together = asyncio.run(read_all())
    assert [len(segments) for segments in watched.reads] == [1, 11]
    for read, prompt in zip(together, PROMPTS, strict=True):
        router.forget()
        assert relative(read.logits.row, router.route(prompt).logits.row) <= 1e-5


def test_a_cancelled_read_leaves_the_queue(router: Router, watched: Watched) -> None:
    async def cancel_some() -> None:
        watched.shut()
        first = asyncio.create_task(router.read(PROMPTS[0]))
        await asyncio.to_thread(watched.begun.wait, 60)
        others = [asyncio.create_task(router.read(prompt)) for prompt in PROMPTS[1:]]
        await all_queued(router, len(others))
        for each in others[1:]:
            each.cancel()
        await asyncio.gather(*others[1:], return_exceptions=True)
        watched.gate.set()
        await asyncio.gather(first, others[0])

    asyncio.run(cancel_some())
    assert [len(segments) for segments in watched.reads] == [1, 1]


def test_the_loop_goes_on_while_a_long_text_becomes_tokens(router: Router) -> None:
    async def ticks_meanwhile() -> int:
        reading = asyncio.create_task(router.read("seven times six is forty-two " * 20_000))
        ticks = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            ticks += 1
        with pytest.raises(ContextLengthError):
            reading.result()
        return ticks

    assert any(
        asyncio.run(ticks_meanwhile()) > 10 for _ in range(20)
    )  # a busy machine may not let the loop run at once


@pytest.mark.parametrize("piece", ["1", "eyJ-", " ", "<think>"])
def test_a_text_that_is_far_too_long_is_refused_by_its_beginning(router: Router, piece: str) -> None:
    with pytest.raises(ContextLengthError, match="more than 600 tokens"):
        router.route(piece * (4_000_000 // len(piece)))


def test_what_is_no_transcript_is_refused(router: Router) -> None:
    with pytest.raises(TranscriptError):
        asyncio.run(router.read([]))


def test_routers_of_one_model_share_its_memories(
    router: Router, tiny_folders: dict[str, Path], watched: Watched, registry: ModelRegistry
) -> None:
    again = {"profile": "cpu", "dtype": "float32", "backend": watched, "registry": registry}
    with load_router(**tiny_folders, **again) as second, load_router(**tiny_folders, cache_bytes=0, **again) as third:  # type: ignore[arg-type]
        watched.reads.clear()
        first = router.route(PROMPTS[0])
        assert second.route(PROMPTS[0]).logits == first.logits
        assert second.route(PROMPTS[0]).reused_tokens == first.token_count
        assert third.route(PROMPTS[0]).reused_tokens == 0
        assert len(watched.reads) == 2
        router.close()
        assert second.route(PROMPTS[0]).reused_tokens == first.token_count
    with load_router(**tiny_folders, **again) as later:  # type: ignore[arg-type]
        assert later.route(PROMPTS[0]).reused_tokens == 0


def test_hidden_vectors_give_the_logits_through_the_head(router: Router) -> None:
    vectors = router.values(PROMPTS)
    assert [len(vector) for vector in vectors] == [64] * len(PROMPTS)
    assert router.values(PROMPTS[:1])[0] == pytest.approx(vectors[0], rel=1e-4, abs=1e-5)
