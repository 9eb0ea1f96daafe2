"""A provider of another make, with the fault that an agent's model names; ``run_cases`` installs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from trinity_mlx.contracts.errors import ProviderRefused
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Usage
from trinity_mlx.contracts.transcript import Message


def said(text: str) -> Message:
    return Message("assistant", text)


def make_provider(agent: Agent, api_key: str | None) -> Odd:
    return Odd(agent, api_key)


class Odd:
    def __init__(self, agent: Agent, api_key: str | None) -> None:
        self._behaviour = agent.model
        self._key = api_key
        self._folder = Path(str(agent.extra.get("folder", "")))
        self.is_live = bool(agent.extra.get("live", True))

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        result = await getattr(self, self._behaviour)(on_text)
        return result  # noqa: RET504 - a fault may be that this is no reply

    async def close(self) -> None:
        if self._behaviour == "closes_badly":
            raise RuntimeError("it does not close")

    async def closes_badly(self, on_text: OnText | None) -> Reply:
        return Reply(said("ACCEPT: closed"), Finish.STOP, "odd")

    async def uncounted(self, on_text: OnText | None) -> Reply:
        return Reply(said("ACCEPT: " + "x" * 292), Finish.STOP, "odd")

    async def echoes_key(self, on_text: OnText | None) -> Reply:
        raise ProviderRefused(f"Incorrect API key provided: {self._key}", status=401)

    async def leaks_key(self, on_text: OnText | None) -> Reply:
        raise ValueError(f"headers were {{'x-odd': {self._key!r}}}")

    async def times_out(self, on_text: OnText | None) -> Reply:
        raise TimeoutError("the socket is slow")

    async def loses_the_line(self, on_text: OnText | None) -> Reply:
        raise ConnectionResetError("reset by peer")

    async def returns_nothing(self, on_text: OnText | None) -> None:
        return None

    async def returns_blanks(self, on_text: OnText | None) -> Reply:
        return Reply(said(" \n"), Finish.STOP, "odd")

    async def returns_half_a_character(self, on_text: OnText | None) -> Reply:
        return Reply(said("half \ud83d"), Finish.STOP, "odd")

    async def streams(self, on_text: OnText | None) -> Reply:
        """The last piece comes once there is the file ``go-on`` in the folder that the agent's ``extra`` names."""
        pieces = ["Streaming ", "word by word", " \x1b[31mand \x1b]0;title\x07more."]
        for piece in pieces:
            while piece == pieces[-1] and not (self._folder / "go-on").exists():
                await asyncio.sleep(0.01)
            if on_text:
                on_text(piece)
        return Reply(said("".join(pieces)), Finish.STOP, "odd", Usage(1000, 20))
