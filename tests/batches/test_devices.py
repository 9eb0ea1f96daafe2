"""Processes that share a batch: the same records as one, also where one is killed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from trinity_mlx.batches.chunks import chunks
from trinity_mlx.batches.engines.devices import on_devices
from trinity_mlx.batches.records import Question
from trinity_mlx.contracts.errors import ProfileUnavailable, WorkersLost
from trinity_mlx.contracts.routing import Selection, SelectionMode, Window
from trinity_mlx.routing.recipe import Recipe

from .echo import Echo

RECIPE = Recipe("nano", window=Window(5, 10, 2))
QUESTION = Question(Selection(SelectionMode.SAMPLE, seed=7, guarded=False), allow_slots=(1, 2), timings=True)
WORKER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from echo import Echo
from trinity_mlx.batches.frames import chunk_of, receive, routed_frame, send
from trinity_mlx.routing.recipe import Recipe
from trinity_mlx.batches.worker import question_of
asks, replies = sys.stdin.buffer, sys.stdout.buffer
opening = receive(asks)[0]
recipe, question = Recipe.of(opening["recipe"]), question_of(opening["question"])
send(replies, {"ready": True})
while frame := receive(asks):
    chunk = chunk_of(frame)
    if b"deadly" in chunk.lines and not (fallen := Path(sys.argv[2]) / f"fallen-{chunk.first}").exists():
        fallen.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    head, body = routed_frame(Echo({"device": recipe.device, "question": repr(question)}).answer(chunk, question))
    send(replies, head, body)
"""


def test_processes_answer_as_one_would_and_one_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    raw = b'one\n\n\xc3\xa9\n{"x": "\\n"}\ngood\n' * 3 + b"\n\n\ndeadly\nlast"
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(tmp_path)]
    told: list[str] = []
    crew = on_devices(RECIPE, ["a", "b:1"], tell=told.append, command=command)
    shared = list(crew.route(chunks(io.BytesIO(raw), "x", whole=True, most=3), QUESTION))
    alone = list(Echo().route(chunks(io.BytesIO(raw), "x", whole=True, most=3), QUESTION))
    assert [(chunk, routed.records, routed.failed) for chunk, routed in shared] == [
        (chunk, routed.records, routed.failed) for chunk, routed in alone
    ]
    assert {routed.by["device"] for _, routed in shared} <= {"a", "b:1"}
    assert {routed.by["question"] for _, routed in shared} == {repr(QUESTION)}
    assert len(told) == len(list(tmp_path.glob("fallen-*"))) == 1
    assert "signal 9" in told[0]


def test_ctrl_c_is_left_to_whoever_started_a_process_from_its_first_moment_on(tmp_path: Path) -> None:
    """A terminal gives it to all of them, also to one whose interpreter has only begun to start."""
    hasty = "import os, signal; os.kill(os.getpid(), signal.SIGINT)" + WORKER
    told: list[str] = []
    command = [sys.executable, "-c", hasty, str(Path(__file__).parent), str(tmp_path)]
    crew = on_devices(RECIPE, ["a"], tell=told.append, command=command)
    routes = crew.route(chunks(io.BytesIO(b"one"), "x", whole=True), QUESTION)
    assert [len(routed.records) for _, routed in routes] == [1]
    assert told == []


def test_a_process_that_cannot_start_is_told() -> None:
    crew = on_devices(RECIPE, ["a"], command=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(WorkersLost, match="no worker is left"):
        list(crew.route(chunks(io.BytesIO(b"one"), "x", whole=True), QUESTION))


def test_a_device_that_is_not_there_is_told_as_a_router_would() -> None:
    crew = on_devices(Recipe("nano"), ["nosuch:5"])
    with pytest.raises(ProfileUnavailable, match="nosuch:5"):
        list(crew.route(chunks(io.BytesIO(b"one"), "x", whole=True), Question()))
