"""What each fault of an endpoint comes to in a run: the rows that tests hold runs to, and that docs/faults.md shows.

python -m tests.fault_table > docs/faults.md
"""

from __future__ import annotations

from dataclasses import dataclass

from trinity_mlx.runs.breaker import BreakerPolicy
from trinity_mlx.runs.retry import RetryPolicy

ALL = RetryPolicy().attempts
COMMAND = "python -m tests.fault_table > docs/faults.md"
BOTH = ("whole", "streamed")


@dataclass(frozen=True)
class Row:
    """A fault that leaves an agent without an answer: how often it is asked, and what its failures in a trace say."""

    fault: str
    """Its name in the server, or a place where no server answers."""
    title: str
    error: str
    says: str
    """A part of each ``message``."""
    attempts: int = ALL
    status: int | None = None
    waits_s: float = 0.0
    """The least ``retry_in_s``."""
    forms: tuple[str, ...] = BOTH
    """Whether it concerns answers as a whole, streamed ones, or both."""
    why: str = ""
    """Why a fault that is worth a repetition is not repeated."""

    @property
    def run(self) -> str:
        if self.attempts == 1:
            return "turns to the next agent at once" + (f": {self.why}" if self.why else "")
        return f"asks again{' after the wait that was asked for' if self.waits_s else ''}, then turns to the next"

    @property
    def trace(self) -> str:
        status = "" if self.status is None else f"`status` {self.status}, "
        return f"{self.attempts} × `provider_failed`: {status}“{self.says}”"


@dataclass(frozen=True)
class Taken:
    """An answer that is odd and is taken all the same, by a Worker or a Verifier."""

    fault: str
    title: str
    role: str
    run: str
    finish: str
    verdict: str | None = None

    @property
    def trace(self) -> str:
        verdict = f", `verdict` {self.verdict}" if self.verdict else ""
        return f"`turn_completed`, `finish` {self.finish}{verdict}"


def refused(status: int, title: str, says: str = "") -> Row:
    return Row(str(status), f"{status} {title}", "ProviderRefused", says or f"HTTP {status}: ", 1, status)


def unavailable(status: int, title: str) -> Row:
    return Row(str(status), f"{status} {title}", "ProviderUnavailable", f"HTTP {status}: ", status=status)


def limited(fault: str, title: str, says: str = "HTTP 429: ", attempts: int = ALL, **more: object) -> Row:
    return Row(fault, f"429 {title}", "ProviderRateLimited", says, attempts, 429, **more)  # type: ignore[arg-type]


def invalid(fault: str, title: str, says: str, attempts: int = ALL, **more: object) -> Row:
    return Row(fault, title, "ReplyInvalid", says, attempts, **more)  # type: ignore[arg-type]


def late(fault: str, title: str) -> Row:
    return Row(fault, title, "ProviderTimeout", "no whole answer within")


SHORT_WAIT_S = 0.1
"""What the tests' server asks for where it asks for a wait that is worth it."""
TOTAL_S = 20.0
"""The tests' limit for attempts and waits together, which the longer waits exceed."""
TOO_LONG = "the wait would take longer than `total_s`"

ELSEWHERE = (
    Row("refused", "connection refused", "ProviderUnreachable", "no connection: "),
    Row("no-such-name", "name that does not resolve", "ProviderUnreachable", "no connection: "),
    Row("tls", "certificate that nobody signed", "ProviderUnreachable", "certificate", 1),
)
ROWS = (
    *ELSEWHERE,
    Row("hung-up", "connection closed instead of an answer", "ProviderUnreachable", "no connection: "),
    Row("garbage", "bytes that are no HTTP", "ProviderUnreachable", "no connection: "),
    Row("cut", "answer or stream cut in the middle", "ProviderUnreachable", "no connection: "),
    late("slow-header", "header that does not come"),
    late("dripped", "one byte a second"),
    late("stalled", "half an answer, then nothing"),
    Row("redirect", "302, redirect", "ProviderRefused", "HTTP 302: ", 1, 302),
    refused(400, "bad request"),
    refused(401, "unauthorised", "check what its api_key refers to"),
    refused(403, "forbidden", "check what its api_key refers to"),
    refused(404, "not found", "check its model and base_url"),
    refused(413, "too large"),
    refused(422, "unprocessable"),
    Row("408", "408 request timeout", "ProviderTimeout", "HTTP 408: ", status=408),
    unavailable(409, "conflict"),
    limited("429", "without Retry-After"),
    limited("429-retry-after", "with Retry-After in seconds", waits_s=SHORT_WAIT_S),
    limited("429-retry-ms", "with retry-after-ms", waits_s=0.02),
    limited("429-retry-date", "with Retry-After as a date too far off", "it asks for a wait of", 1, why=TOO_LONG),
    limited("429-long", "with Retry-After of an hour", "it asks for a wait of 3600 s", 1, why=TOO_LONG),
    limited("429-quota", "`insufficient_quota`", attempts=1),
    unavailable(500, "internal error"),
    unavailable(502, "bad gateway"),
    unavailable(503, "unavailable"),
    Row(
        "503-retry-after",
        "503 with Retry-After",
        "ProviderUnavailable",
        "HTTP 503: ",
        status=503,
        waits_s=SHORT_WAIT_S,
    ),
    unavailable(504, "gateway timeout"),
    unavailable(529, "overloaded"),
    invalid("empty-body", "200, empty body", "the reply is not JSON"),
    invalid("html", "200, HTML instead of JSON", "the reply is not JSON"),
    invalid("truncated-json", "200, truncated JSON", "the reply is not JSON"),
    invalid("not-utf8", "200, bytes that are no UTF-8", "the reply is not JSON"),
    invalid("deep-json", "200, JSON nested 200,000 deep", "the reply is not JSON"),
    invalid("other-shape", "200, JSON of another shape", "the reply is malformed"),
    invalid("no-choices", "200, no choices", "the reply holds no choices"),
    invalid("lone-surrogate", "200, half a character", "the reply is malformed"),
    invalid("packed", "200, compressed though nobody asked", "the reply is packed as 'gzip'", 1),
    invalid("huge", "200, 100 MB", "the reply is larger than 33,554,432 bytes", 1),
    invalid("error-in-200", "200 with an error object", "answered with an error in place of a reply"),
    Row(
        "error-in-stream",
        "stream that turns into an error object",
        "ProviderUnavailable",
        "answered with an error in place of a reply",
        forms=("streamed",),
    ),
    invalid("broken-events", "stream whose events are no JSON", "the reply is not JSON", forms=("streamed",)),
    invalid("no-finish", "stream without its finish reason", "it was cut", forms=("streamed",)),
    invalid("empty-answer", "empty answer", "the answer is empty"),
    invalid("blank-answer", "answer of white space", "the answer is empty"),
    invalid("null-answer", "answer of null", "the answer is empty", forms=("whole",)),
    invalid("only-reasoning", "answer that stayed in the field for reasoning", "the answer is empty"),
    invalid("length-empty", "token limit before the first word", "raise max_tokens", 1),
    invalid("only-thinking", "token limit within the reasoning", "raise max_tokens", 1),
    invalid("withheld", "answer withheld by a filter", "withheld by the provider's filter", 1),
)
TAKEN = (
    Taken("wrong-type", "right answer under another content type", "Worker", "goes on", "stop"),
    Taken("thinking", "reasoning in the text", "Verifier", "reads the verdict after it", "stop", "accepted"),
    Taken("length", "answer cut by the token limit", "Worker", "goes on; a Verifier may still refuse it", "length"),
    Taken(
        "length",
        "verdict cut by the token limit",
        "Verifier",
        "reads no verdict, not even from `ACCEPT`, and goes on",
        "length",
        "cut",
    ),
)

HEAD = """\
# Faults: what a run does when a provider fails

Each row has been provoked: a server on this machine plays the provider, and the tests carry out whole runs against it.
An agent is asked up to {attempts} times, as `RetryPolicy.attempts` has it. A wait doubles from {first:g} s to
{most:g} s, or is what the provider asks for where that is longer. Attempts and waits together take at most `total_s`,
{total:g} s, or the agent's `timeout_s` where that is more.

After the last attempt:

- **with another agent** the next best one takes the turn, in the order of the router's logits. The trace has
  `fallback`, and `turn_completed` the slot that was to speak, as `fallback_from`;
- **with none left, or with `--strict`**, the run ends: `run_failed`, status `failed`, the last error, exit code 5. The
  result keeps every turn and the best answer so far;
- **if an attempt succeeds in between**, the run goes on as if nothing had been, and the trace has each failure.

An agent that has failed {failures} times in a row, over all runs, is not asked for {rest:g} s (`CircuitOpen`): the
trace has `fallback` without an attempt. Failures that are not worth a repetition, and 429, do not count towards that.

In every row the key that the provider repeats in its error is left out of the result, the trace and the log; the trace
passes `trinity-mlx trace verify`; every connection is closed. A stream that breaks leaves none of its text behind.

## No answer

Every `provider_failed` but an agent's last has `retry_in_s`. `status` is null where none is given here.
"""
TAKEN_HEAD = """
## Odd answers that are taken
"""
FOOT = f"""
## What is no fault of the line

| what the provider does | what the run does |
| --- | --- |
| it refuses to answer | no repetition, and the agent is not put to rest; the policy's `on_refusal` says whether the next agent is asked |
| it swallows a cancellation, or makes an error of it | the attempt ends with its time, the run with its limit or its cancellation; the call is left behind after 50 ms |
| it raises a cancellation by itself | `ProviderUnavailable`: repeated, then the next agent |
| it counts tokens below 0, beyond 2**53, or not in whole numbers | the count is not given: limits go by an estimate, the cost is unknown |
| its errors have a status, a wait or an id of another kind | these are left out; a message is cut after 2000 characters |

`{COMMAND}` writes this page from the data that the tests check.
"""  # noqa: E501


def table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def document() -> str:
    """The whole page."""
    policy, breaker = RetryPolicy(), BreakerPolicy()
    head = HEAD.format(
        attempts=policy.attempts,
        first=policy.wait_initial_s,
        most=policy.wait_max_s,
        total=policy.total_s,
        failures=breaker.failures,
        rest=breaker.rest_s,
    )
    columns = ("fault", "attempts", "error", "what the run does", "what the trace says")
    failing = table(columns, [(row.title, str(row.attempts), f"`{row.error}`", row.run, row.trace) for row in ROWS])
    taken_columns = ("answer", "attempts", "role", "what the run does", "what the trace says")
    taken = table(taken_columns, [(row.title, "1", row.role, row.run, row.trace) for row in TAKEN])
    return head + failing + TAKEN_HEAD + taken + FOOT


if __name__ == "__main__":
    print(document(), end="")
