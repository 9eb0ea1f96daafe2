"""A trace as OpenTelemetry spans, in the attributes of the semantic conventions for generative AI.

Each run is one OpenTelemetry trace, or part of its caller's where that is known (``traceparent``): a span
``invoke_agent`` for the run, and below it a span ``chat`` for every attempt at a provider. What was routed, and where
an agent fell back, are events of the run's span. Identifiers follow from the run's id, and times from the events, so
that the same trace always gives the same spans. Texts are never exported.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..contracts.errors import EnvironmentUnavailable
from .reader import Line, Run
from .record import ENVELOPE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_AGENT = "trinity-mlx"
_TIMEOUT_S = 10.0


def spans_of(run: Run) -> list[ReadableSpan]:
    """The spans of ``run``, each attempt before the run itself.

    Raises:
        EnvironmentUnavailable: the extra ``otel`` is not installed.
    """
    with _extra_named():
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    memory = InMemorySpanExporter()
    resource = Resource({"service.name": _AGENT, "service.version": version(_AGENT)})
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=_identifiers(run.run_id))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    _record(run, provider.get_tracer(_AGENT, version(_AGENT)))
    return list(memory.get_finished_spans())


def to_json_lines(runs: Sequence[Run]) -> str:
    """The spans of ``runs`` as OTLP in JSON, one request a line: the form of the OpenTelemetry collector's files.

    Raises:
        EnvironmentUnavailable: the extra ``otel`` is not installed.
    """
    with _extra_named():
        from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    requests = (MessageToDict(encode_spans(spans_of(run)), use_integers_for_enums=True) for run in runs)
    return "".join(json.dumps(_with_hex_ids(request), ensure_ascii=False) + "\n" for request in requests)


def send(runs: Sequence[Run], endpoint: str) -> None:
    """Send the spans of ``runs`` to a collector over HTTP; ``/v1/traces`` is added to an address without a path.

    Raises:
        EnvironmentUnavailable: the extra ``otel`` is not installed, or the collector does not take them.
    """
    with _extra_named():
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    has_path = urlsplit(endpoint).path not in ("", "/")
    url = endpoint if has_path else endpoint.rstrip("/") + "/v1/traces"
    exporter = OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S)
    try:
        _send_all(runs, exporter, url)
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _send_all(runs: Sequence[Run], exporter: SpanExporter, url: str) -> None:
    from opentelemetry.sdk.trace.export import SpanExportResult

    for run in runs:
        if exporter.export(spans_of(run)) is not SpanExportResult.SUCCESS:
            raise EnvironmentUnavailable(
                f"{url} did not take the spans of run {run.run_id}: check that a collector listens there for OTLP "
                "over HTTP, or write a file"
            )


@contextmanager
def _extra_named() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"spans need a package that is not installed ({error.name}): pip install 'trinity-mlx[otel]'"
        ) from None


def _identifiers(run_id: str) -> Any:
    """Identifiers for one trace and its spans, from hashes of the run's id."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Identifiers(IdGenerator):
        count = 0

        def generate_trace_id(self) -> int:
            return _number(run_id, 16)

        def generate_span_id(self) -> int:
            self.count += 1
            return _number(f"{run_id}/{self.count}", 8)

    return Identifiers()


def _number(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:size], "big")


def _record(run: Run, tracer: Tracer) -> None:
    """Play the run to ``tracer``; what was never finished ends with the last event."""
    from opentelemetry.trace import SpanKind, set_span_in_context

    last = _ns(run, run.lines[-1])
    root = tracer.start_span(
        f"invoke_agent {_AGENT}",
        _caller(run.lines[0]["refs"].get("traceparent", "")),
        attributes=_run_attributes(run),
        start_time=_ns(run, run.lines[0]),
    )
    below = set_span_in_context(root)
    call: Span | None = None
    for line in run.lines:
        now = _ns(run, line)
        if line.event == "provider_called":
            call = tracer.start_span(
                f"chat {line['model']}", below, SpanKind.CLIENT, _call_attributes(line), start_time=now
            )
        elif line.event in ("routed", "fallback"):
            root.add_event(line.event, _plain_fields(line), now)
        elif line.event in ("provider_failed", "tools_called", "turn_completed") and call:
            _end(call, line, _outcome(line), now)
            call = None
    if call:
        call.end(last)
    _end(root, run.end, _run_outcome(run), last)


def _caller(traceparent: str) -> Context | None:
    """The span of whoever asked for the run, by its W3C trace context; None where there is none."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}) if traceparent else None


def _end(span: Span, line: Line | None, outcome: dict[str, Any], now: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attributes({name: value for name, value in outcome.items() if value is not None})
    if line is not None and "error" in line.record:
        span.set_attribute("error.type", line["error"])
        span.set_status(Status(StatusCode.ERROR, line["message"]))
    span.end(now)


def _ns(run: Run, line: Line) -> int:
    """Nanoseconds since 1970: the run's beginning by the clock on the wall, and from there by the steady one."""
    return round(run.lines[0].time.timestamp() * 1000) * 1_000_000 + round(line.elapsed_ms * 1_000_000)


def _run_attributes(run: Run) -> dict[str, Any]:
    first = run.lines[0]
    known = {"trinity.pool": first["pool"], "trinity.policy": str(first["policy"].get("name"))} if run.start else {}
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": _AGENT,
        "gen_ai.conversation.id": run.run_id,
        **known,
        **{f"trinity.{name}": ref for name, ref in first["refs"].items()},
    }


def _call_attributes(line: Line) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": line["provider"],
        "gen_ai.request.model": line["model"],
        "gen_ai.agent.name": line["agent"],
        **{f"trinity.{name}": line[name] for name in ("turn", "slot", "role", "attempt")},
    }


def _outcome(line: Line) -> dict[str, Any]:
    if line.event == "provider_failed":
        return {"http.response.status_code": line["status"], "trinity.request_id": line["request_id"]}
    return {
        "gen_ai.response.model": line["model"],
        "gen_ai.response.finish_reasons": [line["finish"]],
        "trinity.request_id": line["request_id"],
        "trinity.verdict": line.record.get("verdict"),
        **_usage(line),
    }


def _run_outcome(run: Run) -> dict[str, Any]:
    if run.end is None:
        return {"trinity.status": "unfinished"}
    return {"trinity.status": run.end["status"], "trinity.turns": run.end["turns"], **_usage(run.end)}


def _usage(line: Line) -> dict[str, Any]:
    usage = line["usage"] or {}
    return {
        "gen_ai.usage.input_tokens": usage.get("input_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        "trinity.cost_usd": line["cost_usd"],
    }


def _plain_fields(line: Line) -> dict[str, Any]:
    """The fields of an event that are attributes as they are."""
    fields = {name: value for name, value in line.record.items() if name not in ENVELOPE}
    return {f"trinity.{name}": value for name, value in fields.items() if isinstance(value, str | int | float)}


def _with_hex_ids(value: Any) -> Any:
    """``value`` with identifiers in hexadecimal, as OTLP wants them in JSON, instead of protobuf's base64."""
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: b64decode(item).hex() if key in ("traceId", "spanId", "parentSpanId") else _with_hex_ids(item)
        for key, item in value.items()
    }
