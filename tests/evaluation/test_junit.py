"""The JUnit file, read back by the standard library's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx import Role, Router, load_router
from trinity_mlx.contracts.errors import FolderUnavailable
from trinity_mlx.evaluation.gates import Gates, evaluate
from trinity_mlx.evaluation.junit import render_junit, write_junit
from trinity_mlx.evaluation.results import CaseResult, Evaluation, Status
from trinity_mlx.evaluation.suite import Route, Suite

from ..evaluation_cases import NO_FLOORS, decision_of, few

CASE = few(1).cases[0]


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    with load_router("nano", profile="cpu") as router:
        yield router


def evaluation_of(*results: CaseResult) -> Evaluation:
    suite = Suite("made\x00up", "0" * 64, tuple(result.case for result in results))
    return Evaluation(suite, results, NO_FLOORS, None, ("a",), 1, 1.5, {"profile": "mlx", "artifact": "na\x1bno"})


@pytest.mark.parametrize("asserting", [True, False])
def test_each_case_is_a_test_case_with_its_reasons(router: Router, asserting: bool) -> None:
    suite = few()
    cases = (suite.cases[0], replace(suite.cases[1], expected=Route(6, Role.WORKER), token_count=1), suite.cases[2])
    evaluation = evaluate(router, replace(suite, cases=cases), Gates(NO_FLOORS, asserting=asserting))
    root = ET.fromstring(render_junit(evaluation))
    assert root.tag == "testsuite"
    assert root.attrib.items() >= {"name": "nano-64 on cpu.nano", "tests": "3", "errors": "0", "skipped": "0"}.items()
    assert root.get("failures") == ("1" if asserting else "0")
    assert float(root.get("time", "")) == pytest.approx(evaluation.elapsed_s, abs=1e-3)
    assert [(each.get("classname"), each.get("name")) for each in root] == [("cpu.nano", case.id) for case in cases]
    assert all(float(each.get("time", "")) > 0 for each in root)
    assert [len(each) for each in root] == [0, 1, 0]
    (found,) = root[1]
    assert found.tag == ("failure" if asserting else "system-out")
    assert found.text is not None
    assert [line.partition(":")[0] for line in found.text.splitlines()] == ["decision", "token count"]
    assert found.get("message") == (found.text.splitlines()[0] if asserting else None)


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1), reason=st.text(min_size=1))
def test_any_text_comes_back_or_is_replaced(name: str, reason: str) -> None:
    result = CaseResult(replace(CASE, id=name), Status.FAIL, (reason,), decision_of((1.0, 2.0), (0.0, 1.0, 2.0)))
    root = ET.fromstring(render_junit(evaluation_of(result)))
    assert same_in_xml(root[0].get("name", ""), name)
    assert same_in_xml(root[0][0].text or "", reason.replace("\r\n", "\n").replace("\r", "\n"))


def same_in_xml(found: str, text: str) -> bool:
    """Whether each character is itself, or U+FFFD in place of one that XML 1.0 has no form for."""
    return len(found) == len(text) and all(
        one == other or (one == "\ufffd" and not allowed(other)) for one, other in zip(found, text, strict=True)
    )


def allowed(letter: str) -> bool:
    """XML 1.0, production 2."""
    code = ord(letter)
    return letter in "\t\n\r" or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def test_a_case_that_could_not_be_routed_took_no_time() -> None:
    result = CaseResult(CASE, Status.FAIL, ("cannot be routed: \x07 too long",), None)
    (case,) = ET.fromstring(render_junit(evaluation_of(result)))
    assert (case.get("time"), case.get("classname")) == ("0.000000", "mlx.na\ufffdno")
    assert case[0].text == "cannot be routed: \ufffd too long"


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    evaluation = evaluation_of(CaseResult(CASE, Status.PASS, (), None))
    write_junit(tmp_path / "new" / "junit.xml", evaluation)
    assert (tmp_path / "new" / "junit.xml").read_bytes() == render_junit(evaluation)
    with pytest.raises(FolderUnavailable, match="new cannot be written"):
        write_junit(tmp_path / "new", evaluation)
    with pytest.raises(FolderUnavailable, match="cannot be written"):
        write_junit(tmp_path / "new" / "junit.xml" / "below.xml", evaluation)
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "junit.xml"]
