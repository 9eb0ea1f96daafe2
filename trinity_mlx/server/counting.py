"""What a run's events add to the metrics, and to what is noted about its request."""

from __future__ import annotations

from ..contracts.events import Event, ProviderCalled, ProviderFailed, Routed, TurnCompleted
from .access import Account
from .metrics import Metrics


class Counter:
    """Counts the events of one request's run in ``pool``."""

    def __init__(self, metrics: Metrics, pool: str, account: Account) -> None:
        self._metrics = metrics
        self._pool = pool
        self._account = account

    def count(self, event: Event) -> None:
        """Count one event, and the time for which router or providers were waited for."""
        metrics, pool, account = self._metrics, self._pool, self._account
        if isinstance(event, Routed) and event.token_count is not None:
            account.elsewhere_s += event.latency_ms / 1000
            metrics.route_seconds.observe(event.latency_ms / 1000)
            metrics.route_tokens.inc(event.token_count)
        elif isinstance(event, ProviderCalled):
            metrics.calls.labels(pool, event.agent, "begun").inc()
        elif isinstance(event, ProviderFailed):
            account.elsewhere_s += event.latency_ms / 1000 + (event.retry_in_s or 0.0)
            metrics.calls.labels(pool, event.agent, "failed").inc()
        elif isinstance(event, TurnCompleted):
            account.elsewhere_s += event.latency_ms / 1000
            self._count_turn(event)

    def _count_turn(self, event: TurnCompleted) -> None:
        metrics, pool = self._metrics, self._pool
        metrics.turns.labels(pool, event.agent, event.role.label).inc()
        metrics.call_seconds.labels(pool, event.agent).observe(event.latency_ms / 1000)
        if event.verdict is not None:
            metrics.verdicts.labels(pool, event.verdict).inc()
        if event.usage is not None:
            metrics.tokens.labels(pool, event.agent, "input").inc(event.usage.input_tokens)
            metrics.tokens.labels(pool, event.agent, "output").inc(event.usage.output_tokens)
        if event.cost_usd:
            metrics.cost.labels(pool).inc(event.cost_usd)
