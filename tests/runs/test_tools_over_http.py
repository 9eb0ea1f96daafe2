"""A run's tools through each provider's real SDK: several calls at once, their results, and the answer made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trinity_mlx.contracts.pool import Agent, Price
from trinity_mlx.contracts.routing import Role
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.runs.result import RunStatus

from ..provider_server import ProviderServer, Received, Said
from ..run_cases import carry_out
from ..sdk_types import assert_request

CALLS = (("c1", "warmth", '{"city": "Paris"}'), ("c2", "warmth", '{"city": "Rome"}'))
ANSWER = "It is 21 degrees in both."


def team_of_one(received: Received) -> str | Said:
    """A Worker that asks the thermometer first, and a Verifier that is content."""
    told = str(received.body.get("system") or received.body["messages"][0]["content"])
    if "You are the Verifier" in told:
        return "ACCEPT"
    results = [city for city in ("Paris", "Rome") if f"21 degrees in {city}" in str(received.body["messages"])]
    return ANSWER if results == ["Paris", "Rome"] else Said("I look.", CALLS, finish="tool_calls")


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer(answer=team_of_one) as running:
        yield running


def warmth(city: str) -> str:
    """Says how warm it is in a city."""
    return f"21 degrees in {city}"


def agent_of(server: ProviderServer, provider: str, model: str = "m", **fields: Any) -> Agent:
    url = server.origin if provider == "anthropic" else server.url
    return Agent(0, "solver", provider, f"openai:{model}" if provider == "any-llm" else model, url, **fields)


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_worker_calls_tools_and_answers_by_their_results(
    server: ProviderServer, provider: str, is_streamed: bool
) -> None:
    before = len(server.requests)
    run: dict[str, Any] = {"tools": {"warmth": warmth}}
    if is_streamed:
        run["on_text"] = lambda turn, text: None
    result = carry_out(agent_of(server, provider, accepts=("tools",)), live=True, run=run)
    assert (result.status, result.answer) == (RunStatus.ACCEPTED, ANSWER)
    sent = server.requests[before:]
    assert [turn.role for turn in result.turns] == [Role.WORKER, Role.WORKER, Role.VERIFIER]
    assert ["tools" in received.body for received in sent] == [True, True, True, False]  # the first turn is two calls
    for received in sent:
        assert_request(received.api, received.body)


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
@pytest.mark.parametrize("limits", [Limits(cost_usd=0.000001), Limits(tokens=10)])
def test_counts_below_nothing_switch_no_limit_off(server: ProviderServer, provider: str, limits: Limits) -> None:
    agent = agent_of(server, provider, "fault:negative-counts", price=Price(1.0, 1.0))
    result = carry_out(agent, live=True, limits=limits)
    assert result.status is RunStatus.BUDGET_EXCEEDED
    assert result.cost_usd is None
    assert len(result.turns) == 1


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
def test_a_refusal_is_asked_for_once(server: ProviderServer, provider: str) -> None:
    before = len(server.requests)
    result = carry_out(agent_of(server, provider, "fault:refused"), live=True)
    assert len(server.requests) - before == 1
    assert result.status is RunStatus.REFUSED
