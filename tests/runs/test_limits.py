"""The six limits of a run: each ends it with its name, its value, what was seen, and the best answer so far."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import BudgetExceeded, PoolInvalid
from trinity_mlx.contracts.events import Event, ProviderCalled, ProviderFailed, RunFailed
from trinity_mlx.contracts.pool import Agent, Price
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.runs.client import GRACE_S
from trinity_mlx.runs.coordinator import TraceFile
from trinity_mlx.runs.meter import CHARACTERS_PER_TOKEN, Meter
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.runs.retry import RetryPolicy
from trinity_mlx.tracing.jsonl import JsonlTrace
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import verify_run

from ..run_cases import (
    FixedRouter,
    Listener,
    W,
    carry_out,
    carry_out_in_virtual_time,
    install_odd_providers,
    odd,
    scripted,
    toward,
)

USAGE = {"input_tokens": 30, "output_tokens": 12}


def worker(**fields: Any) -> Agent:
    """Costs 54 USD a call: one for each token in, two for each out."""
    return scripted(0, {"text": "42", "usage": USAGE}, price=Price(1e6, 2e6), **fields)


def checker(text: str = "REVISE: no", delay_s: float = 0.0) -> Agent:
    return scripted(1, {"text": text, "usage": USAGE, "delay_s": delay_s}, price=Price(1e6, 2e6))


def stopped(result: RunResult, kind: str, limit: float) -> float:
    """What was observed as the run reached its limit, and everything else is as it must be."""
    assert (result.status, result.exit_code) == (RunStatus.BUDGET_EXCEEDED, 6)
    assert result.error is not None
    assert result.error.type == BudgetExceeded.__name__
    assert (result.error.details["kind"], result.error.details["limit"]) == (kind, limit)
    assert result.to_dict()["error"] == {
        "type": "BudgetExceeded",
        "message": result.error.message,
        "kind": kind,
        "limit": limit,
        "observed": result.error.details["observed"],
    }
    assert kind in result.error.message
    observed: float = result.error.details["observed"]
    return observed


CASES = [
    (Limits(provider_calls=1), "provider_calls", 1, 2, 1),
    (Limits(verifier_revisions=0), "verifier_revisions", 0, 1, 2),
    (Limits(verifier_revisions=1), "verifier_revisions", 1, 2, 4),
    (Limits(cost_usd=53.0), "cost", 53.0, 54, 1),
    (Limits(cost_usd=54.0), "cost", 54.0, 54, 1),
    (Limits(cost_usd=55.0), "cost", 55.0, 108, 2),
    (Limits(tokens=41), "tokens", 41, 42, 1),
    (Limits(tokens=42), "tokens", 42, 42, 1),
    (Limits(tokens=43), "tokens", 43, 84, 2),
]


@pytest.mark.parametrize(("limits", "kind", "limit", "seen", "turns"), CASES)
def test_each_limit_ends_the_run_with_the_best_answer_so_far(
    limits: Limits, kind: str, limit: float, seen: float, turns: int, tmp_path: Path
) -> None:
    path, heard = tmp_path / "trace.jsonl", Listener()
    result = carry_out(worker(), checker(), limits=limits, trace=TraceFile(path), run={"sinks": [heard]})
    assert stopped(result, kind, limit) == seen
    assert len(result.turns) == turns
    check_end(result, limits, path, heard)


@pytest.mark.parametrize(
    ("limits", "kind"), [(Limits(wall_time_s=0.8), "wall_time"), (Limits(call_latency_s=0.4), "call_latency")]
)
def test_a_limit_of_time_ends_the_run_at_that_time(limits: Limits, kind: str, tmp_path: Path) -> None:
    path, heard = tmp_path / "trace.jsonl", Listener()
    limit = limits.wall_time_s or limits.call_latency_s
    assert limit is not None
    with closing(JsonlTrace(path, "run-1")) as trace:
        run = {"sinks": [heard, trace], "run_id": "run-1"}
        result = carry_out_in_virtual_time(worker(), checker(delay_s=30), limits=limits, run=run)
    assert limit <= stopped(result, kind, limit) <= limit + GRACE_S
    assert len(result.turns) == 1
    check_end(result, limits, path, heard)


def check_end(result: RunResult, limits: Limits, path: Path, heard: Listener) -> None:
    """The best answer is given, and the trace says what the result does."""
    assert result.answer == "42"
    (run,) = read_trace(path).runs
    assert verify_run(run).problems == ()
    assert run.lines[0]["limits"] == limits.to_dict()
    assert (run.lines[-1]["status"], run.lines[-1]["error"]) == ("budget_exceeded", "BudgetExceeded")
    assert run.lines[-1]["details"] == result.error.details  # type: ignore[union-attr]
    (failed,) = heard.of(RunFailed)
    assert failed.answer.text == "42"


@pytest.mark.parametrize(
    "limits",
    [
        Limits(provider_calls=2),
        Limits(verifier_revisions=0),
        Limits(cost_usd=108.0),
        Limits(tokens=84),
        Limits(wall_time_s=60.0, call_latency_s=60.0),
    ],
)
def test_a_run_that_just_keeps_its_limit_is_none_the_worse(limits: Limits) -> None:
    assert carry_out(worker(), checker("ACCEPT"), limits=limits).status is RunStatus.ACCEPTED


def test_nobody_is_called_where_no_call_is_allowed() -> None:
    heard = Listener()
    result = carry_out(worker(), limits=Limits(provider_calls=0), run={"sinks": [heard]})
    assert stopped(result, "provider_calls", 0) == 1
    assert (result.answer, result.verdict, result.turns) == (None, None, ())
    assert heard.of(ProviderCalled) == []


@pytest.mark.parametrize(("calls", "verdict"), [(1, None), (2, "revised"), (3, None), (4, "revised")])
def test_a_verdict_belongs_to_the_answer_that_is_given(calls: int, verdict: str | None) -> None:
    result = carry_out(worker(), checker(), limits=Limits(provider_calls=calls))
    assert len(result.turns) == calls
    assert (result.verdict.status if result.verdict else None) == verdict


def test_retries_and_fallbacks_count_as_calls() -> None:
    agents = scripted(0, {"error": "unavailable"}), scripted(1, {"error": "unavailable"})
    heard = Listener()
    result = carry_out(*agents, limits=Limits(provider_calls=4), run={"sinks": [heard]})
    assert stopped(result, "provider_calls", 4) == 5
    assert [event.slot for event in heard.of(ProviderCalled)] == [0, 0, 0, 1]


@pytest.mark.parametrize("limits", [Limits(wall_time_s=0.6, call_latency_s=0.4), Limits(wall_time_s=0.6)])
def test_the_wait_between_attempts_belongs_to_the_run_and_not_to_a_call(limits: Limits) -> None:
    patient = RetryPolicy(wait_initial_s=30.0, wait_max_s=30.0)
    heard = Listener()
    failing, run = scripted(0, {"error": "unavailable"}), {"sinks": [heard]}
    result = carry_out_in_virtual_time(failing, limits=limits, retry=patient, run=run)
    assert stopped(result, "wall_time", 0.6) >= 0.6
    (failed,) = heard.of(ProviderFailed)
    assert failed.error == "ProviderUnavailable"


def test_an_attempt_that_a_limit_cuts_off_is_told_as_failed() -> None:
    heard = Listener()
    limits = Limits(call_latency_s=0.4)
    carry_out_in_virtual_time(worker(), checker(delay_s=30), limits=limits, run={"sinks": [heard]})
    (failed,) = heard.of(ProviderFailed)
    assert (failed.error, failed.slot, failed.turn, failed.retry_in_s) == ("BudgetExceeded", 1, 1, None)


def test_each_attempt_has_the_whole_time_of_a_call() -> None:
    slow = scripted(0, {"turn": 0, "error": "unavailable", "delay_s": 0.4}, "42")
    second = scripted(1, {"role": "Verifier", "text": "ACCEPT"}, "42")
    result = carry_out_in_virtual_time(slow, second, limits=Limits(call_latency_s=1.0))
    assert result.status is RunStatus.ACCEPTED
    assert result.wall_ms == pytest.approx(1200)


def test_the_tighter_of_two_times_is_the_one_that_is_named() -> None:
    slow = scripted(0, {"text": "42", "delay_s": 30})
    for limits, kind in (
        (Limits(wall_time_s=0.1, call_latency_s=20), "wall_time"),
        (Limits(wall_time_s=20, call_latency_s=0.1), "call_latency"),
    ):
        stopped(carry_out_in_virtual_time(slow, limits=limits), kind, 0.1)


@pytest.mark.parametrize("limits", [Limits(), Limits(wall_time_s=60), Limits(call_latency_s=60)])
def test_a_timeout_of_the_providers_own_is_no_limit_of_the_run(
    limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_odd_providers(tmp_path, monkeypatch)
    result = carry_out(odd(0, "times_out"), limits=limits, live=True)
    assert (result.status, result.exit_code) == (RunStatus.FAILED, 5)


@pytest.mark.parametrize("limits", [Limits(), Limits(wall_time_s=60)])
def test_a_timeout_in_a_listener_is_no_limit_of_the_run(limits: Limits) -> None:
    class Slow(Listener):
        def emit(self, event: Event) -> None:
            if isinstance(event, ProviderCalled):
                raise TimeoutError("the listener is slow")

    with pytest.raises(TimeoutError, match="the listener is slow"):
        carry_out(worker(), limits=limits, run={"sinks": [Slow()]})


def test_the_agents_own_time_is_no_limit_of_the_run() -> None:
    slow = scripted(0, {"text": "42", "delay_s": 30}, timeout_s=0.05)
    result = carry_out_in_virtual_time(slow, limits=Limits(wall_time_s=30))
    assert (result.status, result.exit_code) == (RunStatus.FAILED, 5)
    assert result.error is not None
    assert result.error.type == "ProviderTimeout"


def test_limits_go_by_an_estimate_where_nobody_counted_and_reports_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_odd_providers(tmp_path, monkeypatch)
    uncounted = odd(0, "uncounted", price=Price(0.0, 1e6))
    options: dict[str, Any] = {"router": FixedRouter(toward(0, W)), "live": True}
    result = carry_out(uncounted, limits=Limits(cost_usd=90.0), **options)
    assert stopped(result, "cost", 90.0) == 300 / CHARACTERS_PER_TOKEN
    assert (result.cost_usd, result.usage.output_tokens, result.turns[0].usage) == (None, 0, None)
    assert stopped(carry_out(uncounted, limits=Limits(tokens=100), **options), "tokens", 100) > 100


def test_a_limit_of_cost_needs_every_price() -> None:
    with pytest.raises(PoolInvalid, match=r"states no price for agent-1; add price = \{ input"):
        carry_out(worker(), scripted(1, "ACCEPT", price=None), limits=Limits(cost_usd=1.0))


def test_a_meter_names_the_wall_while_nobody_is_called() -> None:
    exceeded = Meter(Limits(wall_time_s=1e-9, call_latency_s=1e-9)).ran_out(None)
    assert exceeded.kind == "wall_time"
