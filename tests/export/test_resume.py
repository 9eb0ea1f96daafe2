"""Exports that are broken off, resumed, repeated or aimed at a folder that is not theirs."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.errors import BundleInvalid, FolderUnavailable, OutputExists, ResumeRefused, UsageError
from trinity_mlx.export import workspace
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.request import ExportEvent, ExportRequest, TiedEmbedding, Write
from trinity_mlx.profiles.backends import load_backend

from .. import builders

HIDDEN = builders.TINY["hidden_size"]
BUNDLE = {"README.md", "adapter.safetensors", "export.log.jsonl", "manifest.json", "router_head.safetensors"}

KILLER = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.request import ExportRequest, Write
from trinity_mlx.profiles.backends import load_backend

base, vector, out, seed, trials, kills, landed = sys.argv[1:]
request = ExportRequest(open_base(base), "test/tiny", Path(vector), Path(out), load_backend("torch"), resume=True)
draw = random.Random(int(seed))


def start(folder, write):
    child = os.fork()
    if not child:
        export(replace(request, out=Path(folder), name="router", write=write))
        os._exit(0)
    return child


seconds = {}
for write in Write:
    before = time.perf_counter()
    os.waitpid(start(f"{out}/timed-{write}", write), 0)
    seconds[write] = time.perf_counter() - before
killed = trial = 0
while trial < int(trials) or killed < int(landed):
    write = list(Write)[trial % 2]
    for attempt in range(int(kills)):
        child = start(f"{out}/{write}-{trial}", write)
        moment = draw.uniform(0, seconds[write])
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        is_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        killed += is_killed
        if attempt == 0 and not is_killed:
            seconds[write] = moment  # a whole export takes no longer than this
    trial += 1
"""


class BrokenOff(Exception):
    """Raised by a progress callback in the place of whatever may break an export off."""


def breaking_at(step: int) -> Callable[[ExportEvent], None]:
    """A callback that breaks the export off at its ``step``-th event."""
    left = iter(range(step))

    def progress(event: ExportEvent) -> None:
        if next(left, None) is None:
            raise BrokenOff

    return progress


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle, the event log aside, which has times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "export.log.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def events(out: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (out / "export.log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vector") / "vector.npy"
    np.save(path, np.random.default_rng(7).normal(0, 0.2, 19 * HIDDEN))
    return path


@pytest.fixture(scope="module")
def whole(tiny_base: Base, vector: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Write, dict[str, bytes]]:
    """What an export that is never broken off writes."""
    folder = tmp_path_factory.mktemp("whole")
    for write in Write:
        export(
            ExportRequest(
                tiny_base, "test/tiny", vector, folder / write, load_backend("torch"), name="router", write=write
            )
        )
    return {write: content(folder / write) for write in Write}


@pytest.fixture
def request_(tiny_base: Base, vector: Path, tmp_path: Path) -> ExportRequest:
    return ExportRequest(tiny_base, "test/tiny", vector, tmp_path / "out", load_backend("torch"), name="router")


def break_off(request: ExportRequest, step: int = 9) -> None:
    with pytest.raises(BrokenOff):
        export(request, breaking_at(step))


def check_kills(
    request: ExportRequest, whole: dict[Write, dict[str, bytes]], seed: int, trials: int, kills: int, landed: int
) -> None:
    """Kill exports at random moments, some of them again while they resume; then complete each.

    A kill that comes after the end does not count: there are more trials until ``landed`` have come before it.
    """
    folder = request.out
    script = [sys.executable, "-c", KILLER, request.base.folder, request.vector, folder, seed, trials, kills, landed]
    subprocess.run([str(part) for part in script], check=True)
    for out in [path for path in folder.iterdir() if not path.name.startswith(".")]:
        write = Write(out.name.partition("-")[0] if not out.name.startswith("timed") else out.name.partition("-")[2])
        export(replace(request, out=out, write=write, resume=True))
        assert content(out) == whole[write]
        assert {path.name for path in out.iterdir()} == BUNDLE
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_killed_export_is_completed_with_the_same_bytes(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]]
) -> None:
    check_kills(request_, whole, seed=1, trials=8, kills=1, landed=1)


@pytest.mark.slow
def test_exports_killed_at_a_hundred_moments_are_completed_with_the_same_bytes(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]]
) -> None:
    check_kills(request_, whole, seed=2, trials=110, kills=2, landed=40)


@pytest.mark.parametrize("write", Write)
def test_an_export_broken_off_at_any_event_is_completed_with_the_same_bytes(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]], tmp_path: Path, write: Write
) -> None:
    request = replace(request_, write=write)
    seen: list[ExportEvent] = []
    export(replace(request, out=tmp_path / "counted"), seen.append)
    for step in range(0, len(seen), 5):
        broken = replace(request, out=tmp_path / str(step))
        break_off(broken, step)
        export(replace(broken, resume=True))
        assert content(broken.out) == whole[write]


@pytest.mark.parametrize("size", [1000, 5000, 20_000, 70_000])
def test_an_export_that_found_no_room_is_completed(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]], size: int
) -> None:
    with builders.no_file_over(size), pytest.raises(FolderUnavailable, match="File too large"):
        export(request_)
    export(replace(request_, resume=True))
    assert content(request_.out) == whole[Write.FACTORED]


@pytest.mark.parametrize("step", ["sealed", "half tidied"])
def test_an_export_broken_off_while_it_tidies_up_is_completed(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]], tmp_path: Path, step: str
) -> None:
    break_off(request_, step=9)
    shutil.copytree(request_.out / ".export", tmp_path / "untidied")
    export(replace(request_, resume=True))
    (tmp_path / "untidied").rename(request_.out / ".export")
    if step == "half tidied":
        (request_.out / ".export" / "state.json").unlink()
    export(replace(request_, resume=True))
    assert content(request_.out) == whole[Write.FACTORED]


def test_finished_tensors_are_not_worked_on_again(request_: ExportRequest) -> None:
    break_off(request_, step=9)
    finished = events(request_.out).count("tensor_finished")
    assert finished > 0
    export(replace(request_, resume=True))
    assert events(request_.out).count("tensor_reused") == finished
    assert events(request_.out).count("tensor_finished") == 9


def test_a_torn_line_of_the_log_stays_alone(request_: ExportRequest) -> None:
    break_off(request_)
    log = request_.out / "export.log.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    export(replace(request_, resume=True))
    lines = log.read_text().splitlines()
    assert sum(1 for line in lines if not line.endswith("}")) == 1


def test_resuming_without_anything_there_starts(request_: ExportRequest, whole: dict[Write, dict[str, bytes]]) -> None:
    export(replace(request_, resume=True))
    assert content(request_.out) == whole[Write.FACTORED]


def test_resuming_a_finished_export_verifies_it(request_: ExportRequest, whole: dict[Write, dict[str, bytes]]) -> None:
    export(request_)
    log = (request_.out / "export.log.jsonl").read_bytes()
    assert export(replace(request_, resume=True)) == open_bundle(request_.out)
    assert (request_.out / "export.log.jsonl").read_bytes() == log
    adapter = request_.out / "adapter.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleInvalid, match="has changed"):
        export(replace(request_, resume=True))


CHANGES: dict[str, tuple[Callable[[ExportRequest, Path], dict[str, Any]], str]] = {
    "vector": (lambda request, folder: {"vector": other_vector(folder)}, "lineage.vector"),
    "base": (lambda request, folder: {"base": builders.make_base(folder / "other", seed=9)}, "base.ref"),
    "base_id": (lambda request, folder: {"base_id": "else"}, 'base.id: "test/tiny" -> "else"'),
    "write": (lambda request, folder: {"write": Write.MERGED}, 'made.write: "factored" -> "merged"'),
    "tied": (lambda request, folder: {"tied_embedding": TiedEmbedding.LM_HEAD}, "tied_embedding"),
    "agents": (lambda request, folder: {"agents": builders.LABELS}, 'agents.0: "gpt-5" -> "amber"'),
    "layers": (lambda request, folder: {"layers": (0,)}, "vector.1.source"),
    "only": (lambda request, folder: {"only": ("lm_head.weight",)}, "made.only"),
    "backend": (lambda request, folder: {"backend": load_backend("mlx")}, 'made.backend: "torch" -> "mlx"'),
}


def other_vector(folder: Path) -> Path:
    np.save(folder / "other.npy", np.zeros(19 * HIDDEN))
    return folder / "other.npy"


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("what", CHANGES)
def test_changed_inputs_are_named_and_refused(
    request_: ExportRequest, tmp_path: Path, what: str, finished: bool
) -> None:
    export(request_) if finished else break_off(request_)
    before = content(request_.out)
    change, says = CHANGES[what]
    with pytest.raises(ResumeRefused) as caught:
        export(replace(request_, resume=True, **change(request_, tmp_path)))
    assert says in str(caught.value)
    assert "replace it" in str(caught.value)
    assert content(request_.out) == before


def test_other_versions_are_named_and_refused(request_: ExportRequest) -> None:
    break_off(request_)
    path = request_.out / ".export" / "state.json"
    state = json.loads(path.read_text())
    state["export"]["made"]["numpy"] = "0.0.1"
    path.write_text(json.dumps(state))
    with pytest.raises(ResumeRefused, match=rf'made.numpy: "0.0.1" -> "{re.escape(np.__version__)}"'):
        export(replace(request_, resume=True))


def test_a_finished_tensor_that_changed_is_refused(request_: ExportRequest) -> None:
    break_off(request_)
    partial = request_.out / ".export" / "adapter.safetensors"
    content = bytearray(partial.read_bytes())
    content[2000] ^= 1
    partial.write_bytes(content)
    with pytest.raises(ResumeRefused, match=r"'model.embed_tokens.weight' was finished and has changed.*start anew"):
        export(replace(request_, resume=True))


def test_a_truncated_checkpoint_is_refused(request_: ExportRequest) -> None:
    break_off(request_)
    partial = request_.out / ".export" / "adapter.safetensors"
    partial.write_bytes(partial.read_bytes()[:-1])
    with pytest.raises(ResumeRefused, match=r"truncated.*start anew"):
        export(replace(request_, resume=True))


def test_a_checkpoint_that_is_gone_is_refused(request_: ExportRequest) -> None:
    break_off(request_)
    (request_.out / ".export" / "adapter.safetensors").unlink()
    with pytest.raises(ResumeRefused, match="start anew"):
        export(replace(request_, resume=True))


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{}",
        b"[]",
        b'{"finished": 3}',
        b'{"finished": {"a": 3}}',
        b'{"finished": {}, "finished": {}}',
        b"\xff",
        pytest.param(b"[" * 100_000, id="deeply nested"),
    ],
)
def test_a_state_that_is_none_is_refused(request_: ExportRequest, state: bytes) -> None:
    break_off(request_)
    (request_.out / ".export" / "state.json").write_bytes(state)
    with pytest.raises(ResumeRefused, match=r"no state of an export.*start anew"):
        export(replace(request_, resume=True))
    export(replace(request_, force=True))


def test_a_state_with_a_tensor_of_another_export_is_refused(request_: ExportRequest) -> None:
    break_off(request_)
    path = request_.out / ".export" / "state.json"
    state = json.loads(path.read_bytes())
    path.write_text(json.dumps(state | {"finished": {"x" * 1000: "0" * 64}}))
    with pytest.raises(ResumeRefused, match=r"no state of an export.*none of this export.*start anew") as refused:
        export(replace(request_, resume=True))
    assert len(str(refused.value)) < 500


def test_an_unfinished_export_is_not_begun_anew_by_itself(request_: ExportRequest) -> None:
    break_off(request_)
    with pytest.raises(OutputExists, match=r"unfinished.*resume it, or start anew"):
        export(request_)


def test_a_finished_bundle_is_not_replaced_by_itself(request_: ExportRequest) -> None:
    export(request_)
    before = content(request_.out)
    with pytest.raises(OutputExists, match=r"finished bundle.*replace it"):
        export(request_)
    assert content(request_.out) == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_foreign_folder_is_left_alone(request_: ExportRequest, resume: bool) -> None:
    request_.out.mkdir()
    (request_.out / "letters.txt").write_text("dear")
    with pytest.raises(OutputExists, match=r"not empty \(letters.txt\)"):
        export(replace(request_, resume=resume))
    assert content(request_.out) == {"letters.txt": b"dear"}


def test_a_file_in_the_place_of_the_folder_is_left_alone(request_: ExportRequest) -> None:
    request_.out.write_text("dear")
    for force in (True, False):
        with pytest.raises(UsageError, match="is a file"):
            export(replace(request_, force=force))
    assert request_.out.read_text() == "dear"


def test_force_replaces_what_exports_write_and_nothing_else(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]]
) -> None:
    export(replace(request_, write=Write.MERGED))
    (request_.out / "letters.txt").write_text("dear")
    export(replace(request_, force=True))
    assert content(request_.out) == whole[Write.FACTORED] | {"letters.txt": b"dear"}
    open_bundle(request_.out)


def test_force_that_is_broken_off_leaves_the_old_bundle_and_can_be_resumed(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]]
) -> None:
    export(replace(request_, write=Write.MERGED))
    before = open_bundle(request_.out)
    break_off(replace(request_, force=True))
    assert open_bundle(request_.out) == before
    export(replace(request_, resume=True))
    assert content(request_.out) == whole[Write.FACTORED]
    assert [path.name for path in request_.out.parent.iterdir()] == ["out"]


def test_force_begins_an_unfinished_export_anew(request_: ExportRequest, whole: dict[Write, dict[str, bytes]]) -> None:
    break_off(replace(request_, write=Write.MERGED))
    export(replace(request_, force=True))
    assert content(request_.out) == whole[Write.FACTORED]
    assert "tensor_reused" not in events(request_.out)


def test_two_exports_into_one_folder_exclude_each_other(request_: ExportRequest) -> None:
    break_off(request_)
    with (request_.out / ".export" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FolderUnavailable, match="another process"):
            export(replace(request_, resume=True))
    export(replace(request_, resume=True))


def test_a_full_disk_is_said_and_the_export_can_be_resumed(
    request_: ExportRequest, whole: dict[Write, dict[str, bytes]]
) -> None:
    with builders.no_file_over(50_000), pytest.raises(FolderUnavailable, match=r"File too large.*resume"):
        export(request_)
    export(replace(request_, resume=True))
    assert content(request_.out) == whole[Write.FACTORED]


def test_differences_are_found_at_any_depth() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": True}
    now = {"a": 1, "b": {"c": [1, 3], "d": None}, "new": "x" * 200}
    assert workspace.differences(before, now) == [
        "b.c.1: 2 -> 3",
        "gone: true -> null",
        f'new: null -> "{"x" * 76}...',
    ]
    assert workspace.differences(now, now) == []
