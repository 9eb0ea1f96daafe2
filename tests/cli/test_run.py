"""``trinity-mlx run``: its output for people and programs, its exit codes, the live view, and Ctrl-C."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trinity_mlx.cli import main
from trinity_mlx.cli.commands.run import interruptible
from trinity_mlx.cli.views.run_view import shown
from trinity_mlx.pools.authority import REFS
from trinity_mlx.tracing.reader import Run, read_trace
from trinity_mlx.tracing.verify import verify_run

from ..run_cases import install_odd_providers

TASK = "What is 17 + 25? Answer briefly."
"""A Worker's turn for the embedded router, in slot 0."""
CHECK = "Is it correct that 17 + 25 = 42? Check it."
"""A Verifier's turn for the embedded router."""
ANSWER = "The answer is 1683: 1 + 2 + ... + 33 = 561, and three times that is 1683."
KEY = "odd-key-3141592653"
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
USAGE = {"input_tokens": 30, "output_tokens": 12}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: object, text: str | None = None) -> Result:
    command = ["run", "--artifact", "nano", "--profile", "mlx", *map(str, arguments)]
    return CliRunner().invoke(main, command, input=text)


def scripted(slot: int, *replies: dict[str, Any], **fields: Any) -> dict[str, Any]:
    free = {"input": 0.0, "output": 0.0}
    return {"slot": slot, "name": f"agent-{slot}", "provider": "scripted", "model": f"model-{slot}", "price": free} | {
        "extra": {"replies": list(replies)},
        **fields,
    }


def write_pool(folder: Path, *agents: dict[str, Any]) -> Path:
    """A pool's file: JSON values are TOML's own, but for the braces' equals signs."""
    lines = ['name = "team"']
    for agent in agents:
        lines += ["[[agents]]", *(f"{name} = {toml(value)}" for name, value in agent.items())]
    path = folder / "team.toml"
    path.write_text("\n".join(lines))
    return path


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def team(folder: Path, checks: str = "ACCEPT: yes", **fields: Any) -> Path:
    """One agent that answers 42 and checks its own answer."""
    replies = [{"role": "Verifier", "text": checks, "usage": USAGE}, {"text": "It is 42.", "usage": USAGE}]
    return write_pool(folder, scripted(0, *replies, **fields))


def assert_refused(result: Result, code: int, *fragments: str) -> None:
    """One line on the error stream says what is wrong; nothing on standard output, no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "error: " in result.stderr
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.stderr


def only_run(path: Path) -> Run:
    (run,) = read_trace(path).runs
    assert verify_run(run).problems == ()
    return run


# For pipes and programs


def test_a_fresh_machine_solves_the_sample_and_gives_the_answer_alone() -> None:
    result = invoke()
    assert result.exit_code == 0
    assert result.stdout == ANSWER + "\n"
    assert [line.split(",")[0] for line in result.stderr.splitlines() if line.startswith("turn")] == [
        "turn 0: mathematician as Thinker",
        "turn 1: mathematician as Worker",
        "turn 2: mathematician as Verifier",
    ]
    assert "accepted by the Verifier in 3 turns" in result.stderr
    assert "\x1b" not in result.output


def test_any_other_task_of_the_demonstration_says_how_to_ask_real_models() -> None:
    result = invoke("Write a haiku about rain.")
    assert result.exit_code == 0
    assert "--pool" in result.stdout


def test_json_stands_alone_on_standard_output() -> None:
    result = invoke("--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["status"], document["answer"]) == (0, "accepted", ANSWER)
    assert [turn["role"] for turn in document["turns"]] == ["Thinker", "Worker", "Verifier"]
    assert [turn["raw_role"] for turn in document["turns"]] == ["Thinker", "Worker", "Verifier"]
    assert document["verdict"]["status"] == "accepted"
    assert (document["cost_usd"], document["error"]) == (0.0, None)
    assert "turn 0" not in result.stderr


def test_a_failed_run_is_json_too(tmp_path: Path) -> None:
    result = invoke(TASK, "--pool", team(tmp_path), "--max-calls", 1, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["status"], document["answer"]) == (6, "budget_exceeded", "It is 42.")
    details = {name: document["error"][name] for name in ("type", "kind", "limit", "observed")}
    assert details == {"type": "BudgetExceeded", "kind": "provider_calls", "limit": 1, "observed": 2}


def test_tasks_come_from_arguments_files_and_standard_input(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": TASK}]
    path = tmp_path / "messages.json"
    path.write_text(json.dumps({"messages": messages}))
    pool, trace = ("--pool", team(tmp_path)), tmp_path / "t.jsonl"
    ways = [
        invoke(TASK, *pool, "--trace-out", trace),
        invoke("-", *pool, "--trace-out", trace, text=TASK),
        invoke("--messages", path, *pool, "--trace-out", trace),
        invoke("--messages", "-", *pool, "--trace-out", trace, text=json.dumps(messages)),
    ]
    assert {(each.exit_code, each.stdout) for each in ways} == {(0, "It is 42.\n")}
    assert len({run.lines[0]["transcript_hash"] for run in read_trace(trace).runs}) == 1
    assert len(read_trace(trace).runs) == 4


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "trinity_mlx.cli", "run", "--artifact", "nano", "--profile", "mlx"]
    result = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert result.returncode == 141
    assert "Traceback" not in result.stderr
    assert "Error" not in result.stderr


# Exit codes


def test_1_for_a_verifier_first_under_the_published_policy() -> None:
    assert_refused(invoke(CHECK, "--policy", "published"), 1, "a Verifier was chosen before any Worker answered")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["x", "--messages", "m.json"], "exclude each other"),
        (["", "--messages", "m.json"], "exclude each other"),
        ([""], "the task is empty"),
        ([" \n"], "the task is empty"),
        (["--messages", "no-such-file.json"], "no-such-file.json"),
        (["--pool", "nowhere"], "no pool 'nowhere'"),
        (["--pool", ""], "it is empty"),
        (["--policy", "nonsense"], "unknown policy 'nonsense'"),
        (["--max-turns", "0"], "max_turns is 0"),
        (["--agent", "nobody"], "no agent 'nobody' in the pool: there are mathematician, "),
        (["--option", "sticky-margin"], "give NAME=VALUE"),
        (["--option", "stickiness=1"], "unknown policy option 'stickiness'"),
        (["--option", "sticky-margin=much"], "sticky_margin is 'much'"),
        (["--option", "floor-margin=1"], "belong together"),
        (["--option", "default-slot=9", "--option", "floor-margin=1"], "default_slot is 9"),
        (["--max-seconds", "0"], "wall_time_s is 0.0"),
        (["--max-seconds", "nan"], "wall_time_s is nan"),
        (["--max-tokens", "0"], "tokens is 0"),
        (["--max-calls", "-1"], "provider_calls is -1"),
        (["--authority", "no-such-file.json"], "cannot read no-such-file.json"),
    ],
)
def test_2_for_what_cannot_be_asked(arguments: list[str], fragment: str) -> None:
    assert_refused(invoke(*arguments), 2, fragment)


def test_2_for_a_pool_with_more_agents_than_slots(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, *(scripted(slot, {"text": "42"}) for slot in range(8)))
    assert_refused(invoke(TASK, "--pool", pool), 2, "has 8 agents, and nano chooses among 7 slots")


def test_2_for_a_limit_of_cost_without_prices(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, {"slot": 0, "name": "a", "provider": "scripted", "extra": {"replies": [{"text": "x"}]}})
    assert_refused(invoke(TASK, "--pool", pool, "--max-cost", "0.5"), 2, "states no price for a")


def test_2_for_live_providers_without_permission(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, {"slot": 0, "name": "far", "provider": "openai-compatible", "model": "m"})
    assert_refused(invoke(TASK, "--pool", pool), 2, "far (openai-compatible)", "--live")


def test_what_was_typed_wrong_is_said_before_a_router_is_loaded() -> None:
    assert_refused(invoke("--pool", "nowhere", "--artifact", "no-such-bundle"), 2, "no pool 'nowhere'")
    assert_refused(invoke("--max-calls", "-1", "--artifact", "no-such-bundle"), 2, "provider_calls")


def test_3_for_a_missing_key_and_an_unwritable_trace(tmp_path: Path) -> None:
    pool = write_pool(
        tmp_path,
        {"slot": 0, "name": "far", "provider": "openai-compatible", "model": "m", "api_key": "env:NO_SUCH_KEY_HERE"},
    )
    assert_refused(invoke(TASK, "--pool", pool, "--live"), 3, "agent 'far'", "the environment has no NO_SUCH_KEY_HERE")
    assert_refused(invoke("--trace-out", tmp_path / "nowhere" / "t.jsonl"), 3, "cannot be written")
    assert_refused(invoke("--profile", "no-such-profile"), 3, "no-such-profile")


def test_4_for_a_missing_artifact() -> None:
    assert_refused(invoke("--artifact", "no-such-bundle"), 4, "no-such-bundle")


def test_5_when_every_agent_fails_with_the_best_answer_so_far(tmp_path: Path) -> None:
    refusing = {"error": "refused", "text": "not today"}
    pool = write_pool(tmp_path, scripted(0, {"turn": 0, "text": "It is 42."}, refusing), scripted(1, refusing))
    result = invoke(TASK, "--pool", pool)
    assert (result.exit_code, result.stdout) == (5, "It is 42.\n")
    assert "agent-1 takes it, because agent-0 failed" in result.stderr
    assert "the best answer so far is given" in result.stderr
    assert "not today" in result.stderr.splitlines()[-1]


def test_strict_asks_nobody_else(tmp_path: Path) -> None:
    refusing = {"error": "refused", "text": "not today"}
    pool = write_pool(tmp_path, scripted(0, refusing), scripted(1, {"text": "42"}))
    assert_refused(invoke(TASK, "--pool", pool, "--strict"), 5, "the policy allows no fallback")
    assert invoke(TASK, "--pool", pool).exit_code == 0


@pytest.mark.parametrize(
    ("option", "value", "kind", "answer"),
    [
        ("--max-seconds", 0.5, "wall_time", ""),
        ("--max-calls", 1, "provider_calls", "It is 42.\n"),
        ("--max-call-seconds", 0.2, "call_latency", ""),
        ("--max-revisions", 0, "verifier_revisions", "It is 42.\n"),
        ("--max-cost", 0.00001, "cost", "It is 42.\n"),
        ("--max-tokens", 5, "tokens", "It is 42.\n"),
        ("--max-calls", 0, "provider_calls", ""),
    ],
)
def test_6_for_each_limit(option: str, value: float, kind: str, answer: str, tmp_path: Path) -> None:
    delay_s = 3600 if "seconds" in option else 0  # whatever the machine is busy with, the limit comes first
    replies = {"role": "Verifier", "text": "REVISE"}, {"text": "It is 42.", "usage": USAGE, "delay_s": delay_s}
    agent = scripted(0, *replies, price={"input": 3.0, "output": 15.0})
    result = invoke(TASK, "--pool", write_pool(tmp_path, agent), option, value)
    assert (result.exit_code, result.stdout) == (6, answer)
    assert f"the run exceeds its limit of {kind}: " in result.stderr
    assert f" of {value:g}\n" in result.stderr
    assert result.stderr.endswith(f"{option} sets that limit\n")


# Options


def test_an_agent_by_name_takes_every_turn() -> None:
    document = json.loads(invoke("--agent", "writer", "--json").stdout)
    assert {(turn["slot"], turn["agent"]) for turn in document["turns"]} == {(3, "writer")}
    assert {tuple(turn["adjustments"]) for turn in document["turns"]} == {("bypass",)}


def test_options_of_the_policy_reach_the_run(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    options = ["--option", "sticky-margin=0.5", "--option", " worker_synonym = false", "--max-turns", "2"]
    result = invoke(*options, "--option", "agent-selection=sample", "--trace-out", trace)
    assert (result.exit_code, result.stdout) == (0, ANSWER + "\n")
    assert "not accepted: the turns ran out in 2 turns" in result.stderr
    policy = only_run(trace).lines[0]["policy"]
    assert (policy["sticky_margin"], policy["worker_synonym"], policy["max_turns"]) == (0.5, False, 2)
    assert isinstance(policy["seed"], int)


def test_a_trace_keeps_texts_only_where_asked(tmp_path: Path) -> None:
    hashes, texts = tmp_path / "hashes.jsonl", tmp_path / "texts.jsonl"
    assert invoke("--trace-out", hashes).exit_code == 0
    assert invoke("--trace-out", texts, "--trace-content").exit_code == 0
    assert ANSWER not in hashes.read_text()
    assert ANSWER in texts.read_text()
    assert only_run(texts).lines[-1]["answer"]["text"] == ANSWER
    assert len(only_run(hashes).lines) == len(only_run(texts).lines) == 14


def test_a_key_from_the_environment_is_used_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_odd_providers(tmp_path, monkeypatch)
    monkeypatch.setenv("ODD_KEY", KEY)
    agents = [
        {"slot": slot, "name": behaviour, "provider": "odd", "model": behaviour, "api_key": "env:ODD_KEY"}
        for slot, behaviour in enumerate(["echoes_key", "leaks_key"])
    ]
    pool, trace = write_pool(tmp_path, *agents), tmp_path / "t.jsonl"
    for more in ([], ["--json"]):
        result = invoke(TASK, "--pool", pool, "--live", "--trace-out", trace, "--trace-content", *more)
        assert result.exit_code == 5
        assert "Incorrect API key provided: <redacted>" in result.output
        assert KEY not in result.output
    assert KEY not in trace.read_text()


# Governed runs


def authority(folder: Path, **changes: Any) -> Path:
    agent = scripted(0, {"role": "Verifier", "text": "ACCEPT"}, {"text": "It is 42."}) | changes
    held = {name: f"{name}-1" for name in REFS} | {"pool": {"name": "governed", "agents": [agent]}}
    path = folder / "authority.json"
    path.write_text(json.dumps(held | {"limits": {"provider_calls": 1}}))
    return path


def test_a_governed_run_keeps_to_its_authority(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    result = invoke(TASK, "--authority", authority(tmp_path), "--trace-out", trace)
    assert (result.exit_code, result.stdout) == (6, "It is 42.\n")
    assert result.stderr.endswith("authority.json sets that limit\n")
    assert {line["refs"]["authority_ref"] for line in only_run(trace).lines} == {"authority_ref-1"}


@pytest.mark.parametrize(
    "option",
    [
        ("--pool", "demo"),
        ("--agent", "agent-0"),
        ("--max-seconds", "1"),
        ("--max-calls", "1"),
        ("--max-call-seconds", "1"),
        ("--max-revisions", "0"),
        ("--max-cost", "1"),
        ("--max-tokens", "1"),
    ],
)
def test_options_beside_an_authority_are_refused(option: tuple[str, str], tmp_path: Path) -> None:
    assert_refused(invoke(TASK, "--authority", authority(tmp_path), *option), 2, f"leave out {option[0]}\n")


def test_a_governed_run_reads_no_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_KEY", KEY)
    result = invoke(TASK, "--authority", authority(tmp_path, api_key="env:ODD_KEY"))
    assert_refused(result, 2, "takes its key from the environment, which a governed run does not read")


# On a terminal


def on_terminal(
    columns: int, folder: Path, *arguments: object, watch: Callable[[bytes], None] = lambda written: None
) -> tuple[int, str]:
    """Exit code and everything written, with a real pseudo-terminal of that width in front of the command.

    ``watch`` is told what has been written whenever that is more.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "trinity_mlx.cli", "run", "--artifact", "nano", "--profile", "mlx"]
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(folder / "site")}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    streams: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = subprocess.Popen([*command, *map(str, arguments)], env=environment, **streams)
    os.close(slave)
    written = b""
    while piece := _read(master):
        written += piece
        watch(written)
    os.close(master)
    return process.wait(300), written.decode("utf-8")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux tells that the other side is closed
        return b""


def lines_of(written: str) -> list[str]:
    """What stood in a line at any time, without escape sequences."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", written))]


@pytest.mark.parametrize("columns", [80, 40])
def test_the_live_view_fits_and_tells_turn_role_agent_margins_tokens_and_cost(columns: int, tmp_path: Path) -> None:
    code, written = on_terminal(columns, tmp_path)
    assert code == 0
    lines = lines_of(written)
    assert max(map(len, lines[1:])) <= columns
    told = " ".join(" ".join(lines).split())
    assert re.search(r"turn 0 Thinker mathematician margins: agent \d+\.\d\d, role \d+\.\d\d", told)
    assert re.search(r"turn 1 Worker mathematician margins: ", told)
    assert re.search(r"script, \d+ ms, 112 tokens in, 57 out, 0 USD, suggests Worker next", told)
    assert re.search(r"answer \(accepted by the Verifier\) The answer is 1683", told)
    assert re.search(r"3 turns, \d+\.\d\d s, 451 tokens in, 97 out, 0 USD", told)
    assert "\x1b[1;32mWorker\x1b[0m" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_text_shows_as_it_streams_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    install_odd_providers(tmp_path)
    price, extra = {"input": 1.0, "output": 50.0}, {"folder": str(tmp_path)}
    streamer = {"slot": 0, "name": "streamer", "provider": "odd", "model": "streams", "price": price, "extra": extra}
    pool = write_pool(
        tmp_path,
        {**streamer, "roles": ["worker"]},
        scripted(1, {"text": "ACCEPT"}, roles=["verifier"], price=price),
    )

    def watch(written: bytes) -> None:
        if b"word by word" in written:
            (tmp_path / "go-on").touch()

    code, written = on_terminal(80, tmp_path, TASK, "--pool", pool, "--live", watch=watch)
    assert code == 0
    lines = lines_of(written)
    assert "  Streaming word by word" in lines  # before the rest came
    assert "  Streaming word by word [31mand ]0;titlemore." in lines
    assert "\x1b[31m" not in written
    assert "\x1b]" not in written
    assert "\x07" not in written
    assert any("0 tokens in, 0 out, 0 USD so far" in line for line in lines)
    assert any("1000 tokens in, 20 out, 0.002 USD" in line for line in lines)


def test_failures_fallbacks_and_the_best_answer_show_on_a_terminal(tmp_path: Path) -> None:
    refusing = {"error": "refused", "text": "not [bold]today"}
    pool = write_pool(tmp_path, scripted(0, {"turn": 0, "text": "It is [42]."}, refusing), scripted(1, refusing))
    code, written = on_terminal(80, tmp_path, TASK, "--pool", pool)
    assert code == 5
    told = " ".join(" ".join(lines_of(written)).split())
    assert "turn 1: attempt 1 failed: agent 'agent-0' (scripted, model 'model-0'): not [bold]today" in told
    assert "turn 1: agent-1 takes it, because agent-0 failed" in told
    assert "best answer so far It is [42]. 1 turn," in told
    assert "error: turn 1 got no reply" in told


def test_json_on_a_terminal_is_json_alone(tmp_path: Path) -> None:
    code, written = on_terminal(80, tmp_path, "--json")
    assert code == 0
    document = json.loads(written[written.index("{") :])
    assert document["answer"] == ANSWER
    assert "\x1b" not in written


def test_what_could_steer_a_terminal_is_taken_out() -> None:
    assert shown("a\x1b[2J\x9b31m\x07b\r\n\tc\x7f\x00é👩‍💻") == "a[2J31mb\n\tcé👩‍💻"


# Ctrl-C


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> bool:
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_interrupted_run_ends_in_order(more: list[str], tmp_path: Path) -> None:
    pool, trace = write_pool(tmp_path, scripted(0, {"text": "42", "delay_s": 3600})), tmp_path / "t.jsonl"
    command = [sys.executable, "-m", "trinity_mlx.cli", "run", TASK, "--artifact", "nano", "--profile", "mlx"]
    process = subprocess.Popen(
        [*command, "--pool", str(pool), "--trace-out", str(trace), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_for(lambda: trace.exists() and "provider_called" in trace.read_text())
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "cancelled"
    assert "Traceback" not in stderr
    run = only_run(trace)
    assert [line.event for line in run.lines[-2:]] == ["provider_failed", "run_failed"]
    assert (run.lines[-1]["status"], run.lines[-1]["error"]) == ("failed", "Cancelled")


# A person who releases the answer


def reviewed_at_a_terminal(answers: bytes) -> tuple[int, bytes]:
    """Exit code and standard output of the demonstration, with a person at a terminal who types ``answers``."""
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "trinity_mlx.cli", "run", "--profile", "mlx", "--option", "review=ask", "--json"]
    os.write(terminal, answers)
    with subprocess.Popen(command, stdin=inside, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        output, _ = process.communicate(timeout=300)
    os.close(terminal)
    os.close(inside)
    return process.returncode, output


@pytest.mark.parametrize(("answers", "code", "status"), [(b"y\n", 0, "accepted"), (b"n\ntoo short\n", 1, "failed")])
def test_a_person_at_the_terminal_releases_the_answer(answers: bytes, code: int, status: str) -> None:
    returned, output = reviewed_at_a_terminal(answers)
    document = json.loads(output)
    assert (returned, document["status"], document["answer"] is None) == (code, status, code == 1)
    if code:
        assert "did not release the answer: too short" in document["error"]["message"]


def test_ctrl_c_at_a_question_ends_it_at_once_and_cancels_the_run() -> None:
    answered = False

    async def ask() -> None:
        nonlocal answered
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0)
        answered = True

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(ask())
    assert not answered


def test_without_a_terminal_nobody_can_release_an_answer() -> None:
    result = CliRunner().invoke(main, ["run", "--option", "review=ask"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "run this at a terminal" in result.stderr
