"""Programs that people use, as they come from their makers, against a server on this machine."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.provider import Request
from trinity_mlx.contracts.transcript import ToolResult

from .real_clients import KEY, claude, codex, program, run
from .serving import Team, by_role, calls_reply, running, team

pytestmark = pytest.mark.slow

PATCH = "*** Begin Patch\n*** Add File: patched.txt\n+by a patch\n*** End Patch\n"
CATALOG = {
    "slug": "trinity",
    "display_name": "Trinity",
    "description": "",
    "supported_reasoning_levels": [],
    "shell_type": "unified_exec",
    "visibility": "list",
    "supported_in_api": True,
    "priority": 1,
    "supports_reasoning_summaries": True,
    "default_reasoning_summary": "auto",
    "support_verbosity": False,
    "apply_patch_tool_type": "freeform",
    "truncation_policy": {"mode": "bytes", "limit": 10000},
    "supports_parallel_tool_calls": True,
    "context_window": 200000,
    "experimental_supported_tools": [],
    "input_modalities": ["text", "image"],
    "base_instructions": "You are a coding agent.",
}
"""What a Codex model catalog says of the model, so that Codex offers ``apply_patch`` as a custom tool."""


def results_of(request: Request) -> list[str]:
    """What tools gave since the user spoke."""
    parts = [part for message in request.messages for part in message.parts]
    return [part.text for part in parts if isinstance(part, ToolResult)]


def caller(name: str, arguments: dict[str, Any]) -> Any:
    """A Worker that calls the tool once, where it is offered, and then says what came of it."""

    def says(request: Request) -> Any:
        results = results_of(request)
        if results:
            return f"The tool says: {' '.join(results[-1].split())[-60:]}"
        if name not in [tool.name for tool in request.tools]:
            return "I have no such tool."
        return calls_reply((name, arguments), text="I call it.")

    return by_role(says)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    return place


@pytest.fixture
def words() -> Iterator[str]:
    with running(team(keys=(KEY,))) as address:
        yield address


def turns_of(served: Team) -> list[list[tuple[int, str]]]:
    """Turn and role of each run, in order."""
    return [[(turn["turn"], turn["role"]) for turn in report["turns"]] for _, report in served.service.reports.items()]


def test_codex_shows_a_text(words: str, home: Path, folder: Path) -> None:
    finished = codex(words, home, folder, "What is 6 * 7?")
    assert finished.code == 0, finished.err
    assert finished.out.strip() == "The answer is 42."
    assert "agent-1 checks the answer" in finished.err


def test_codex_runs_a_command_and_brings_its_result(home: Path, folder: Path) -> None:
    served = team(caller("exec_command", {"cmd": "echo made > made.txt; echo it-is-done"}), keys=(KEY,))
    with running(served) as address:
        finished = codex(address, home, folder, "Make a file.")
    assert finished.code == 0, finished.err
    assert (folder / "made.txt").read_text() == "made\n"
    assert "it-is-done" in finished.out
    assert turns_of(served) == [[], [(0, "Worker"), (1, "Verifier")]]


def test_codex_applies_a_patch(home: Path, folder: Path) -> None:
    catalog = home / "models.json"
    catalog.write_text(json.dumps({"models": [CATALOG]}))
    served = team(caller("apply_patch", {"input": PATCH}), keys=(KEY,))
    with running(served) as address:
        finished = codex(address, home, folder, "Patch it.", f'-c=model_catalog_json="{catalog}"')
    assert finished.code == 0, finished.err
    assert (folder / "patched.txt").read_text() == "by a patch\n"
    assert "The tool says" in finished.out


def test_claude_code_shows_a_text(words: str, home: Path, folder: Path) -> None:
    finished = claude(words, home, folder, "What is 6 * 7?")
    assert finished.code == 0, finished.err
    assert finished.out.strip().endswith("The answer is 42.")


def test_claude_code_runs_a_command_and_brings_its_result(home: Path, folder: Path) -> None:
    command = {"command": "echo made > made.txt; echo it-is-done", "description": "Make a file"}
    served = team(caller("Bash", command), keys=(KEY,))
    with running(served) as address:
        finished = claude(address, home, folder, "Make a file.", "--allowedTools", "Bash")
    assert finished.code == 0, finished.err
    assert (folder / "made.txt").read_text() == "made\n"
    assert "it-is-done" in finished.out


@pytest.mark.parametrize("is_streamed", [True, False])
def test_llm(words: str, home: Path, folder: Path, is_streamed: bool) -> None:
    models = f"- model_id: trinity\n  model_name: trinity\n  api_base: {words}/v1\n  api_key_name: trinity\n"
    (home / "extra-openai-models.yaml").write_text(models)
    options = [] if is_streamed else ["--no-stream"]
    command = [program("llm"), "-m", "trinity", "--key", KEY, "--no-log", *options, "What is 6 * 7?"]
    finished = run(command, home, folder, {"LLM_USER_PATH": str(home)})
    assert finished.out.strip() == "The answer is 42.", finished.err


def python_with(module: str) -> Path:
    """An interpreter that has ``module``: that of the clients' own environment, or this one."""
    folder = os.environ.get("TRINITY_TEST_CLIENTS")
    for place in [*([Path(folder) / "py/bin/python"] if folder else []), Path(sys.executable)]:
        if place.exists() and run([place, "-c", f"import {module}"], Path.home(), Path.cwd(), {}).code == 0:
            return place
    pytest.skip(f"{module} is not installed: pip install it into py in the folder that TRINITY_TEST_CLIENTS names")


def script(module: str, text: str, address: str, home: Path, folder: Path) -> str:
    """What a program prints that uses ``module``."""
    told = {"BASE": f"{address}/v1", "KEY": KEY}
    finished = run([python_with(module), "-c", textwrap.dedent(text)], home, folder, told)
    assert finished.code == 0, finished.err
    return finished.out.strip()


def test_langchain_with_a_tool(home: Path, folder: Path) -> None:
    program_text = """
        import os
        from langchain_core.messages import HumanMessage, ToolMessage
        from langchain_core.tools import tool
        from langchain_openai import ChatOpenAI

        @tool
        def weather(place: str) -> str:
            "The weather of a place."
            return f"sunny in {place}"

        model = ChatOpenAI(model="trinity", base_url=os.environ["BASE"], api_key=os.environ["KEY"])
        model = model.bind_tools([weather])
        messages = [HumanMessage("What is the weather in Bonn?")]
        asked = model.invoke(messages)
        messages.append(asked)
        for call in asked.tool_calls:
            messages.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
        print("".join(piece.content for piece in model.stream(messages)))
    """
    with running(team(caller("weather", {"place": "Bonn"}), keys=(KEY,))) as address:
        assert "sunny in Bonn" in script("langchain_openai", program_text, address, home, folder)


def test_any_llm(words: str, home: Path, folder: Path) -> None:
    program_text = """
        import os
        from any_llm import completion

        answer = completion(
            model="trinity", provider="openai", api_base=os.environ["BASE"], api_key=os.environ["KEY"],
            messages=[{"role": "user", "content": "What is 6 * 7?"}],
        )
        print(answer.choices[0].message.content)
    """
    assert script("any_llm", program_text, words, home, folder) == "The answer is 42."
