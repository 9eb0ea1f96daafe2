"""Every row of the providers' fault table, seen through each interface, streamed and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from trinity_mlx.contracts.pool import Agent, Pool
from trinity_mlx.runs.coordinator import Coordinator
from trinity_mlx.runs.retry import RetryPolicy
from trinity_mlx.server.routers import ServedRouter
from trinity_mlx.server.service import Service

from ..fault_table import ELSEWHERE, ROWS, Row
from ..provider_server import FAULTS, ProviderServer, closed_port
from ..run_cases import W, toward
from .serving import Answered, AsyncRouter, Direct, Team

KEY = "sk-of-the-provider"
ASK = {"messages": [{"role": "user", "content": "What is 6 * 7?"}], "max_tokens": 50}
INTERFACES = {
    "chat": ("/v1/chat/completions", ASK),
    "responses": ("/v1/responses", {"input": "What is 6 * 7?"}),
    "messages": ("/v1/messages", ASK),
}
NEVER, ENOUGH = 0.2, 600.0


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer(answer=lambda received: "42", faults=FAULTS) as running:
        yield running


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with ProviderServer(tls=True) as secured:
        yield {
            "refused": f"http://127.0.0.1:{closed_port()}/v1",
            "no-such-name": "http://no-such-host.invalid/v1",
            "tls": secured.url,
        }


def faulty(row: Row, url: str) -> Team:
    """A service whose one agent fails in that way."""
    never = row.error == "ProviderTimeout" and row.status is None
    agent = Agent(
        slot=0,
        name="faulty",
        provider="openai-compatible",
        model=f"fault:{row.fault}",
        base_url=url,
        api_key="env:FAULT_KEY",
        timeout_s=NEVER if never else ENOUGH,
    )
    router = AsyncRouter(toward(0, W))
    served = ServedRouter(router)
    coordinator = Coordinator(
        served,
        Pool("faulty", (agent,)),
        environment={"FAULT_KEY": KEY},
        live=True,
        retry=RetryPolicy(attempts=1),
    )
    return Team(Service({"faulty": coordinator}, served), router, {})


def is_fault(answered: Answered, interface: str, is_streamed: bool) -> bool:
    """Whether the answer says in its own shape that there is none."""
    if not is_streamed or answered.status != 200:
        error = answered.json["error"]
        return answered.status in (400, 429, 502, 503, 504) and bool(error["message"]) and bool(error["type"])
    events = answered.events
    match interface:
        case "chat":
            return "error" in events[-2][1] and events[-1][1] == "[DONE]"
        case "responses":
            return events[-1][1]["type"] == "response.failed" and bool(events[-1][1]["response"]["error"]["code"])
        case _:
            return events[-1][0] == "error" and events[-1][1]["error"]["type"] in (
                "api_error",
                "overloaded_error",
                "rate_limit_error",
                "timeout_error",
            )


QUICK = ("401", "429", "503", "garbage", "refused")
"""The rows that every test run takes; the others come with the slow ones."""


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.fault, marks=() if row.fault in QUICK else pytest.mark.slow) for row in ROWS],
)
def test_a_fault_is_told_in_every_interfaces_own_words(
    row: Row, server: ProviderServer, addresses: dict[str, str]
) -> None:
    url = addresses[row.fault] if row in ELSEWHERE else server.url
    forms = [(name, model) for name in INTERFACES for model in ("trinity", "trinity-route")]

    async def ask(interface: str, model: str, is_streamed: bool) -> None:
        path, body = INTERFACES[interface]
        served = faulty(row, url)
        answered = await Direct(served)(path, {**body, "model": model, "stream": is_streamed})
        await served.service.close()
        assert is_fault(answered, interface, is_streamed), (interface, model, is_streamed, answered.body[-500:])
        assert KEY.encode() not in answered.body
        assert b"Traceback" not in answered.body
        if not is_streamed and row.status == 429:
            assert (answered.status, "retry-after" in answered.headers) == (429, True)

    async def all_of_them() -> None:
        jobs: list[Any] = []
        if "whole" in row.forms:
            jobs += [ask(name, model, False) for name, model in forms]
        if "streamed" in row.forms:
            jobs += [ask(name, "trinity-route", True) for name in INTERFACES]
        await asyncio.gather(*jobs)

    asyncio.run(all_of_them())
