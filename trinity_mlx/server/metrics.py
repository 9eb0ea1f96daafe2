"""What ``/metrics`` tells: counts and times, never a session, a key or a text. The one place that maps names.

Where OpenTelemetry's conventions for generative AI have a name, ours is theirs with ``_`` for ``.`` and the unit.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAMES = {
    "gen_ai.server.request.duration": "gen_ai_server_request_duration_seconds",
    "gen_ai.server.time_to_first_token": "gen_ai_server_time_to_first_token_seconds",
    "gen_ai.client.operation.duration": "gen_ai_client_operation_duration_seconds",
    "gen_ai.client.token.usage": "gen_ai_client_token_usage_total",
}
"""OpenTelemetry's name, and ours."""
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names, registry = NAMES, self._registry
        self.requests = Counter("trinity_requests_total", "Requests.", ["route", "method", "status"], registry=registry)
        self.seconds = self._histogram(names["gen_ai.server.request.duration"], "Seconds of a request.", ["route"])
        self.first_event = self._histogram(
            names["gen_ai.server.time_to_first_token"], "Seconds until the first event of a stream.", ["route"]
        )
        self.overhead = self._histogram("trinity_overhead_seconds", "Seconds outside router and providers.", ["route"])
        self.route_seconds = self._histogram("trinity_route_seconds", "Seconds of a read by the router.", [])
        self.route_batch = Histogram(
            "trinity_route_batch_size", "Transcripts that a pass read together.", registry=registry, buckets=_SIZES
        )
        self.route_tokens = Counter("trinity_route_tokens_total", "Tokens that the router read.", registry=registry)
        self.route_faults = Counter(
            "trinity_route_fallbacks_total", "Routes that were late or failed.", ["reason"], registry=registry
        )
        self.turns = Counter("trinity_turns_total", "Turns.", ["pool", "agent", "role"], registry=registry)
        self.verdicts = Counter("trinity_verdicts_total", "Verdicts.", ["pool", "verdict"], registry=registry)
        self.calls = Counter(
            "trinity_provider_calls_total", "Attempts at providers.", ["pool", "agent", "outcome"], registry=registry
        )
        self.call_seconds = self._histogram(
            names["gen_ai.client.operation.duration"], "Seconds of a provider's reply.", ["pool", "agent"]
        )
        self.tokens = Counter(
            names["gen_ai.client.token.usage"].removesuffix("_total"),
            "Tokens that providers counted.",
            ["pool", "agent", "direction"],
            registry=registry,
        )
        self.cost = Counter("trinity_cost_usd_total", "US dollars, by the pools' prices.", ["pool"], registry=registry)
        self.outcomes = Counter("trinity_outcomes_total", "How runs ended.", ["pool", "outcome"], registry=registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when somebody asks."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, what: str, labels: list[str]) -> Histogram:
        return Histogram(name, what, labels, registry=self._registry, buckets=_SECONDS)
