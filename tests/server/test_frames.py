"""Frames on their way to a client: whole, in order, never silent for long, and not kept for one who takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.server.frames import Frames, Outflow

Told = list[tuple[bytes, bool]]


def beat() -> bytes:
    return b"[beat]"


async def outflow(
    frames: Frames, told: Told, *, during: Callable[[], Awaitable[Any]] | None = None, **options: Any
) -> None:
    """Send all of ``frames`` into ``told``; ``during`` is awaited as long as a frame is sent."""

    async def send(event: Any) -> None:
        if during is not None:
            await during()
        told.append((event["body"], event["more_body"]))

    await Outflow(frames, send, beat, **{"heartbeat_s": 60.0, **options}).run()


def test_what_is_said_while_the_line_is_busy_goes_out_as_one_frame_and_the_last_one_ends_the_body() -> None:
    async def main() -> Told:
        frames, told = Frames(), Told()
        line = asyncio.Event()
        sending = asyncio.create_task(outflow(frames, told, during=line.wait))
        frames.put(b"a")
        await asyncio.sleep(0)
        for piece in (b"b", b"", b"c"):
            frames.put(piece)
        frames.end()
        line.set()
        await sending
        return told

    assert asyncio.run(main()) == [(b"a", True), (b"bc", False)]


@given(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 3))))
def test_every_byte_goes_out_once_and_in_order_and_the_body_ends_once(said: list[tuple[bytes, int]]) -> None:
    async def main() -> Told:
        frames, told = Frames(), Told()
        sending = asyncio.create_task(outflow(frames, told))
        for piece, turns in said:
            frames.put(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
        frames.end()
        await sending
        return told

    told = asyncio.run(main())
    assert b"".join(frame for frame, _ in told) == b"".join(piece for piece, _ in said)
    assert [more for _, more in told] == [True] * (len(told) - 1) + [False]


def test_a_silence_is_broken_again_and_again() -> None:
    async def main() -> Told:
        frames, told = Frames(), Told()
        sending = asyncio.create_task(outflow(frames, told, heartbeat_s=0.001))
        while len(told) < 3:
            await asyncio.sleep(0.001)
        frames.put(b"done")
        frames.end()
        await sending
        return told

    told = asyncio.run(main())
    assert [frame for frame, _ in told[:3]] == [b"[beat]"] * 3
    assert told[-1][0].endswith(b"done")


def test_nothing_is_said_to_break_the_silence_of_a_client_that_is_busy_and_one_that_is_stuck_is_given_up() -> None:
    async def main() -> tuple[Told, Frames]:
        frames, told = Frames(), Told()
        frames.put(b"a")
        with pytest.raises(TimeoutError):
            await outflow(frames, told, during=asyncio.Event().wait, heartbeat_s=0.001, stall_s=0.05)
        return told, frames

    told, frames = asyncio.run(main())
    assert (told, frames.take()) == ([], b"")


def test_an_end_without_a_word_is_told_apart() -> None:
    async def main() -> tuple[bool, bool]:
        silent, spoken = Frames(), Frames()
        spoken.put(b"a")
        for frames in (silent, spoken):
            frames.end()
        return await silent.wait(), await spoken.wait()

    assert asyncio.run(main()) == (False, True)
