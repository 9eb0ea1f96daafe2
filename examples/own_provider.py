"""A provider of one's own, handed to the coordinator; docs/providers.md says how a package offers one by name."""

from trinity_mlx import Agent, Coordinator, Message, Pool, load_router
from trinity_mlx.contracts.provider import Finish, OnText, Provider, Reply, Request
from trinity_mlx.contracts.routing import Role


class Counter:
    """Counts words; as a Verifier it accepts."""

    is_live = False

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; ``on_text`` is told the text where somebody listens."""
        count = len(request.messages[1].text.split())
        text = "ACCEPT" if request.role is Role.VERIFIER else f"The answer is {count}: the question has {count} words."
        if on_text:
            on_text(text)
        return Reply(Message("assistant", text), Finish.STOP, "counter-1")

    async def close(self) -> None:
        """Nothing is held."""


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of ``agent``."""
    return Counter()


POOL = Pool("mine", (Agent(0, "counter", "counter"),))

with load_router("nano") as router, Coordinator(router, POOL, providers=make_provider) as coordinator:
    result = coordinator.run("How many words has this question?")

print(f"{result.status}: {result.answer}")
