"""Suites: what is read from the shipped and the public files, and what is refused."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx import Role
from trinity_mlx.contracts.errors import InputFileError, SuiteInvalid, TrinityError
from trinity_mlx.evaluation.snapshot import read_snapshot
from trinity_mlx.evaluation.suite import Route, builtin_suites, find_suite, pinned_snapshot, pinned_suites, read_suite

from ..evaluation_cases import attempt, faulty_json, is_one_line, suite_document, write_json

PUBLIC: dict[str, Any] = {
    "schema_version": 1,
    "cases": [
        {
            "id": "unicode_emoji",
            "messages": [{"role": "user", "content": "🙂"}, {"role": "assistant", "content": ""}],
            "expected": {"agent_id": 4, "role_id": 2, "role": "Verifier"},
            "tags": ["unicode", "short"],
            "notes": "one character",
        },
        {"id": "plain", "messages": [{"role": "user", "content": "x"}], "expected": {"agent_id": 0, "role_id": 1}},
    ],
    "coverage": {"uncovered_agents": [{"agent_id": 2, "expected_uncovered_reason": "never"}], "agent_1_note": "once"},
}


def test_a_public_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_json(tmp_path / "public.json", PUBLIC)
    suite = find_suite(path)
    first, second = suite.cases
    assert (suite.name, suite.sha256) == ("public", hashlib.sha256(path.read_bytes()).hexdigest())
    assert (first.id, first.expected, first.tags) == ("unicode_emoji", Route(4, Role.VERIFIER), ("unicode", "short"))
    assert [message.content for message in first.transcript.messages] == ["🙂", ""]
    assert first.notes == "one character"
    assert (second.expected, second.tags, second.notes) == (Route(0, Role.THINKER), (), "")
    assert (first.token_count, second.token_count) == (None, None)


def test_the_shipped_suites_are_found_by_name() -> None:
    assert builtin_suites() == ["nano-64", "seed-12"]
    assert [len(find_suite(name).cases) for name in builtin_suites()] == [64, 12]
    assert find_suite("seed-12").cases[0].token_count == 15


def test_a_pinned_suite_says_where_to_get_it_until_its_file_is_there(tmp_path: Path) -> None:
    assert pinned_suites() == ["public-37"]
    for folder in (None, tmp_path / "suites"):
        with pytest.raises(InputFileError, match=r"https://raw\.githubusercontent\.com/.*18834 bytes") as caught:
            find_suite("public-37", folder)
        assert "qwen_router_prompt_eval_cases.json" in str(caught.value)


def test_a_pinned_suite_is_its_very_file(tmp_path: Path) -> None:
    write_json(tmp_path / "qwen_router_prompt_eval_cases.json", PUBLIC)
    with pytest.raises(SuiteInvalid, match="is not the file of suite public-37: its sha256 is"):
        find_suite("public-37", tmp_path)


def test_the_public_cases_and_what_was_published_of_them_are_found_and_fit(public_files: Path) -> None:
    suite = find_suite("public-37", public_files)
    snapshot = read_snapshot(public_files / "qwen_router_prompt_eval_logits.json")
    assert (suite.name, len(suite.cases)) == ("public-37", 37)
    assert [case.id for case in suite.cases] == list(snapshot.cases)
    for case in suite.cases:
        recorded = snapshot.cases[case.id]
        assert (case.expected.slot, case.expected.role) == (recorded.agent_id, recorded.role_id)


def test_what_was_published_of_a_pinned_suite_is_found_beside_it(public_files: Path, tmp_path: Path) -> None:
    name = "qwen_router_prompt_eval_logits.json"
    assert pinned_snapshot("public-37", public_files) == public_files / name
    assert pinned_snapshot("public-37", tmp_path) is pinned_snapshot("nano-64", public_files) is None
    (tmp_path / name).write_bytes((public_files / name).read_bytes() + b"\n")
    with pytest.raises(SuiteInvalid, match="is not the snapshot of suite public-37"):
        pinned_snapshot("public-37", tmp_path)


def test_a_users_own_suite_is_found_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "mine.json", PUBLIC)
    assert find_suite("mine", tmp_path).name == "mine"


def test_only_keeps_the_order_of_the_suite_and_its_hash() -> None:
    suite = find_suite("seed-12")
    ids = [case.id for case in suite.cases]
    some = suite.only((ids[7], ids[2], ids[7]))
    assert [case.id for case in some.cases] == [ids[2], ids[7]]
    assert (some.name, some.sha256) == (suite.name, suite.sha256)


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(SuiteInvalid, match="no case 'nobody'"):
        find_suite("seed-12").only(("math_direct", "nobody"))


FIRST = "case 'unicode_emoji':"


@pytest.mark.parametrize(
    ("place", "value", "fragment"),
    [
        (("schema_version",), 2, "schema_version"),
        (("cases",), [], "cases: List should have at least 1 item"),
        (("cases", 1, "id"), "unicode_emoji", "case 'unicode_emoji' stands there twice"),
        (("cases", 0, "id"), "", "cases.0.id"),
        (("cases", 0, "messages"), [], "cases.0.messages"),
        (("cases", 0, "messages", 1, "role"), "robot", "case 'unicode_emoji': message 1: unknown role 'robot'"),
        (
            ("cases", 0, "messages", 1, "content"),
            None,
            f"{FIRST} message 1: content of an assistant message is NoneType",
        ),
        (("cases", 0, "messages", 1, "weight"), 1, "case 'unicode_emoji': message 1: the message has the key 'weight'"),
        (("cases", 0, "expected", "role_id"), 3, "cases.0.expected.role_id"),
        (("cases", 0, "expected", "agent_id"), -1, "cases.0.expected.agent_id"),
        (("cases", 0, "expected", "agent_id"), True, "cases.0.expected.agent_id"),
        (("cases", 0, "expected", "agent_id"), 1.0, "cases.0.expected.agent_id"),
        (("cases", 1, "router_input_tokens"), 0, "cases.1.router_input_tokens"),
        (("cases", 1, "tags"), "one", "cases.1.tags"),
    ],
)
def test_what_is_no_suite_is_refused_with_its_place(
    tmp_path: Path, place: tuple[str | int, ...], value: Any, fragment: str
) -> None:
    document: Any = {**PUBLIC, "cases": [dict(case) for case in suite_document(2)["cases"]]}
    document["cases"][0]["id"], document["cases"][0]["messages"] = "unicode_emoji", PUBLIC["cases"][0]["messages"]
    document["cases"][0]["messages"] = [dict(message) for message in PUBLIC["cases"][0]["messages"]]
    part = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(SuiteInvalid) as caught:
        read_suite(write_json(tmp_path / "suite.json", document))
    assert f"suite.json: {fragment}" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1, "schema_version": 1, "cases": []}'],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "suite.json"
    path.write_bytes(content)
    with pytest.raises(SuiteInvalid, match=r"suite\.json"):
        read_suite(path)


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "a\0b", "~nobody-of-that-name/suite.json", "", "."])
def test_what_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(InputFileError, match=r"no suite '.*': name one of nano-64, seed-12, public-37, or a JSON file"):
        find_suite(name)


@pytest.mark.parametrize("name", ["missing.json", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputFileError, match="cannot read"):
        read_suite(tmp_path / name)


def test_a_suite_may_come_through_a_pipe(tmp_path: Path) -> None:
    pipe, content = tmp_path / "pipe", write_json(tmp_path / "suite.json", PUBLIC).read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert len(find_suite(pipe).cases) == 2
    writer.join()


def test_a_file_name_that_is_not_unicode_gives_a_name_that_is(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.json"))
    path.write_bytes(write_json(tmp_path / "suite.json", PUBLIC).read_bytes())
    assert find_suite(path).name == "caf\ufffd"


@given(data=st.data())
def test_a_faulty_file_is_refused_in_one_line_or_read(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "faulty-suite.json"
    path.write_bytes(data.draw(faulty_json(PUBLIC)))
    found = attempt(lambda: read_suite(path))
    if isinstance(found, TrinityError):
        assert isinstance(found, SuiteInvalid)
        assert is_one_line(str(found))
    else:
        assert len({case.id for case in found.cases}) == len(found.cases) >= 1
