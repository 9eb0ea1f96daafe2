"""OpenTelemetry spans: names of the semantic conventions, true times, the same identifiers each time, no texts."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import EnvironmentUnavailable
from trinity_mlx.contracts.events import Event
from trinity_mlx.tracing.otel import send, spans_of, to_json_lines
from trinity_mlx.tracing.reader import Run, read_trace

from .. import trace_builders as build

conventions = pytest.importorskip("opentelemetry.semconv._incubating.attributes", reason="the extra otel")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel")

BEGUN_NS = 1_767_323_045_000_000_000


def run_of(path: Path, events: Iterator[Event] | list[Event], **options: Any) -> Run:
    (run,) = read_trace(build.write(path / "run.jsonl", events, **options)).runs
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(tmp_path, build.good_run(), keep_content=True, refs={"authority_ref": "a:7"})


def by_name(run: Run) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for span in spans_of(run):
        found.setdefault(span.name, []).append(span)
    return found


def test_every_attribute_has_a_name_of_the_conventions(run: Run) -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import error_attributes, http_attributes

    known = {
        value
        for module in (gen_ai_attributes, error_attributes, http_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    used = {name for span in spans_of(run) for name in span.attributes or {} if not name.startswith("trinity.")}
    assert used - known == set()
    assert {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model",
            "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons", "error.type",
            "http.response.status_code"} <= used  # fmt: skip


def test_a_run_is_a_trace_with_a_span_for_each_attempt(run: Run) -> None:
    spans = by_name(run)
    (root,) = spans.pop("invoke_agent trinity-mlx")
    assert {name: len(each) for name, each in spans.items()} == {"chat a-1": 3, "chat b-2": 1}
    assert root.parent is None
    assert all(span.parent.span_id == root.context.span_id for each in spans.values() for span in each)
    assert {event.name: event.timestamp for event in root.events} == {
        "routed": BEGUN_NS + 2_750_000_000,
        "fallback": BEGUN_NS + 1_750_000_000,
    }
    assert root.attributes["gen_ai.conversation.id"] == "run-1"
    assert root.attributes["gen_ai.usage.input_tokens"] == 240
    assert root.attributes["trinity.authority_ref"] == "a:7"
    assert root.attributes["trinity.status"] == "accepted"


def test_spans_have_the_times_of_the_events(run: Run) -> None:
    spans = by_name(run)
    (root,) = spans["invoke_agent trinity-mlx"]
    assert (root.start_time, root.end_time) == (BEGUN_NS, BEGUN_NS + 3_500_000_000)
    assert [(span.start_time - BEGUN_NS, span.end_time - BEGUN_NS) for span in spans["chat a-1"]] == [
        (750_000_000, 1_000_000_000),
        (1_250_000_000, 1_500_000_000),
        (3_000_000_000, 3_250_000_000),
    ]


def test_a_failed_attempt_and_a_reply(run: Run) -> None:
    from opentelemetry.trace import SpanKind, StatusCode

    spans = by_name(run)
    failed, replied = spans["chat a-1"][0], spans["chat b-2"][0]
    assert failed.kind is SpanKind.CLIENT
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "ProviderRateLimited"
    assert failed.attributes["http.response.status_code"] == 429
    assert replied.status.status_code is StatusCode.UNSET
    assert dict(replied.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "b-2",
        "gen_ai.response.model": "b-2",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.agent.name": "beta",
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 33,
        "trinity.turn": 0,
        "trinity.slot": 1,
        "trinity.role": "Worker",
        "trinity.attempt": 1,
        "trinity.cost_usd": 0.0012,
    }


def test_identifiers_follow_from_the_runs_id(run: Run, tmp_path: Path) -> None:
    spans = spans_of(run)
    assert [span.context.span_id for span in spans] == [span.context.span_id for span in spans_of(run)]
    assert len({span.context.span_id for span in spans}) == len(spans)
    (trace_id,) = {span.context.trace_id for span in spans}
    assert f"{trace_id:032x}" == hashlib.sha256(b"run-1").hexdigest()[:32]
    (tmp_path / "other").mkdir()
    other = run_of(tmp_path / "other", build.good_run(), run_id="run-2")
    assert {span.context.trace_id for span in spans_of(other)} != {trace_id}


def test_unfinished_and_failed_runs(tmp_path: Path) -> None:
    from opentelemetry.trace import StatusCode

    first = run_of(tmp_path, list(build.good_run())[:4])
    call, root = spans_of(first)
    assert (call.name, call.end_time, root.end_time) == ("chat a-1", BEGUN_NS + 750_000_000, BEGUN_NS + 750_000_000)
    assert root.attributes is not None
    assert root.attributes["trinity.status"] == "unfinished"
    (tmp_path / "run.jsonl").unlink()
    (root,) = spans_of(run_of(tmp_path, [build.started(), build.failure()]))
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes is not None
    assert (root.attributes["error.type"], root.attributes["trinity.status"]) == ("BudgetExceeded", "budget_exceeded")
    (tmp_path / "run.jsonl").unlink()
    after_failure = spans_of(run_of(tmp_path, list(build.good_run())[:5]))
    assert [span.status.status_code for span in after_failure] == [StatusCode.ERROR, StatusCode.UNSET]
    (tmp_path / "run.jsonl").unlink()
    headless = run_of(tmp_path, [build.called(0), build.called(0), build.failed(1), build.failed(0)])
    assert [span.name for span in spans_of(headless)] == ["chat a-1", "invoke_agent trinity-mlx"]


def test_json_lines_are_otlp(run: Run) -> None:
    text = to_json_lines([run, run])
    assert text.count("\n") == 2
    request = json.loads(text.splitlines()[0])
    (resource,) = request["resourceSpans"]
    assert {"key": "service.name", "value": {"stringValue": "trinity-mlx"}} in resource["resource"]["attributes"]
    spans = resource["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans][-1] == "invoke_agent trinity-mlx"
    root = spans[-1]
    assert root["traceId"] == hashlib.sha256(b"run-1").hexdigest()[:32]
    assert {span.get("parentSpanId") for span in spans} == {root["spanId"], None}
    assert root["startTimeUnixNano"] == str(BEGUN_NS)
    assert (spans[0]["kind"], spans[0]["status"]["code"]) == (3, 2)
    assert all(reply not in text for reply in build.REPLIES)
    assert "17 + 25" not in text


class Collector(BaseHTTPRequestHandler):
    """Takes what it is sent and remembers it; answers with the server's ``status``."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Collector)
    server.received, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces", "/own/place"])
def test_a_collector_is_sent_the_spans(run: Run, collector: Any, path: str) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    send([run, run], f"http://127.0.0.1:{collector.server_port}{path}")
    (place, body), _ = collector.received
    assert place == (path if len(path) > 1 else "/v1/traces")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert [span.name for span in resource.scope_spans[0].spans][-1] == "invoke_agent trinity-mlx"


def test_a_collector_that_refuses_is_named(run: Run, collector: Any) -> None:
    collector.status = 400
    with pytest.raises(EnvironmentUnavailable, match=r"v1/traces did not take the spans of run run-1: check"):
        send([run], f"http://127.0.0.1:{collector.server_port}")


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'trinity-mlx\[otel\]'"):
        spans_of(run)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.common.trace_encoder", None)
    with pytest.raises(EnvironmentUnavailable, match=r"not installed \(opentelemetry"):
        to_json_lines([run])
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(EnvironmentUnavailable, match="not installed"):
        send([run], "http://127.0.0.1:1")
