"""The HTML report: complete, self-contained, and unimpressed by what it shows."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx import Role
from trinity_mlx.contracts.errors import FolderUnavailable
from trinity_mlx.contracts.routing import Margins
from trinity_mlx.evaluation.report import render_report, signed, visible, write_report
from trinity_mlx.evaluation.results import CaseResult, Evaluation
from trinity_mlx.evaluation.snapshot import make_snapshot

from .. import report_evaluations as made

VOID = {"meta", "rect", "line", "wbr"}


class Tree(HTMLParser):
    """The page as a tree of elements; a tag that is closed out of turn is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._builder = ET.TreeBuilder()
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []
        self.root = self._builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self._builder.end(tag)
        else:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._builder.data(data)


def tree(page: str) -> ET.Element:
    assert page.startswith("<!doctype html>\n<html ")
    return Tree(page).root


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def rows(page: ET.Element, table: str) -> list[list[ET.Element]]:
    """The cells of a table's body, its header cells included."""
    body = page.find(f".//table[@class='{table}']/tbody")
    assert body is not None
    return [list(row) for row in body]


def case_rows(page: ET.Element, table: str) -> dict[str, list[ET.Element]]:
    """The cells after the name of each case."""
    return {text(name.find("a/bdi")): cells for name, *cells in rows(page, table) if name.find("a") is not None}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pages(evaluations: dict[str, Evaluation]) -> dict[str, ET.Element]:
    return {name: tree(render_report(evaluation)) for name, evaluation in evaluations.items()}


NAMES = ["passing", "failing", "reported", "bare", "hostile"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_can_be_fetched_or_run(pages: dict[str, ET.Element], name: str) -> None:
    for element in pages[name].iter():
        assert element.tag not in {"script", "img", "iframe", "link", "object", "form", "base"}
        assert not {key for key in element.attrib if key.startswith("on") or key in {"src", "style", "srcset"}}
        assert element.get("href", "#").startswith("#")
    style = pages[name].findtext("head/style") or ""
    assert not re.search(r"url\(|@import|//", style)


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_allows_this_style_sheet_and_nothing_else(pages: dict[str, ET.Element], name: str) -> None:
    head = pages[name].find("head")
    assert head is not None
    digest = base64.b64encode(hashlib.sha256((head.findtext("style") or "").encode()).digest()).decode()
    policy = head.find("meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    assert policy.get("content") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_link_has_its_place_and_no_place_is_there_twice(pages: dict[str, ET.Element], name: str) -> None:
    places = Counter(element.get("id") for element in pages[name].iter() if element.get("id"))
    assert set(places.values()) == {1}
    assert {element.get("href", "")[1:] for element in pages[name].iter("a")} <= set(places)


@pytest.mark.parametrize("name", NAMES)
def test_headings_and_tables_are_marked_up_for_those_who_do_not_see(pages: dict[str, ET.Element], name: str) -> None:
    page = pages[name]
    assert page.get("lang") == "en"
    assert len(list(page.iter("h1"))) == 1
    assert all(table.find("caption") is not None for table in page.iter("table"))
    assert all(cell.get("scope") in {"col", "row"} for cell in page.iter("th"))
    assert all(drawing.get("aria-hidden") == "true" for drawing in page.iter("svg"))
    assert all(section.get("aria-labelledby") for section in page.iter("section"))


def test_every_prompt_stands_there_as_it_is(evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]) -> None:
    for name, evaluation in evaluations.items():
        shown = Counter("".join(block.itertext()).removeprefix("\n") for block in pages[name].iter("pre"))
        messages = (message for result in evaluation.results for message in result.case.transcript.messages)
        assert shown == Counter(visible(message.content) for message in messages)


def test_hostile_names_and_labels_stand_there_as_they_are(pages: dict[str, ET.Element]) -> None:
    shown = {"".join(element.itertext()) for element in pages["hostile"].iter("bdi")}
    assert set(made.HOSTILE) <= shown
    assert {"<script>window.hacked = true</script>", made.LONG_WORD, "عربي", "&amp;", '"'} <= shown
    assert "<b>suite</b>" in text(pages["hostile"].find("body/header/h1"))  # type: ignore[arg-type]


def test_long_prompts_are_folded_and_short_ones_are_not(pages: dict[str, ET.Element]) -> None:
    article = next(each for each in pages["failing"].iter("article") if "too_long" in text(each))
    folded = article.find("details")
    assert folded is not None
    assert folded.get("open") is None
    assert "30,000 characters" in text(folded)
    assert pages["bare"].find(".//details[@class='message']") is None


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("passing", "All 64 cases pass"),
        ("failing", "9 of 65 cases fail"),
        ("reported", "9 of 65 cases would fail; nothing is asserted"),
        ("bare", "The case passes"),
    ],
)
def test_the_verdict_comes_first(pages: dict[str, ET.Element], name: str, verdict: str) -> None:
    header = pages[name].find("body/header")
    assert header is not None
    assert verdict in text(header.findall("p")[1])


def test_notes_stand_on_top(evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]) -> None:
    for name, evaluation in evaluations.items():
        shown = [text(note) for note in pages[name].findall("body/header/ul/li")]
        assert shown == [" ".join(note.split()) for note in evaluation.notes]


def test_failures_lead_with_all_their_reasons(evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]) -> None:
    failed = evaluations["failing"].failed
    articles = list(pages["failing"].iter("article"))
    assert len(articles) == len(failed) == 9
    for article, result in zip(articles, failed, strict=True):
        assert result.case.id in text(article)
        assert [text(reason) for reason in article.findall("ul/li")] == list(result.reasons)
    assert list(case_rows(pages["failing"], "margins"))[:9] == [result.case.id for result in failed]
    section = pages["failing"].find("body/main/section")
    assert section is not None
    assert section.get("aria-labelledby") == "failed"


@pytest.mark.parametrize("name", ["passing", "failing", "bare"])
def test_bars_share_one_scale_and_their_floor(
    evaluations: dict[str, Evaluation], pages: dict[str, ET.Element], name: str
) -> None:
    evaluation, shown = evaluations[name], case_rows(pages[name], "margins")
    for column, split in enumerate(("agent", "role")):
        floor = getattr(evaluation.floors, split)
        found = {
            result.case.id: getattr(result.decision.margins, split) for result in evaluation.results if result.decision
        }
        top = max(found.values())
        for case, margin in found.items():
            cell = shown[case][column]
            _, fill = cell.findall(".//rect")
            assert float(fill.get("width", "")) == pytest.approx(100 * margin / top, abs=1e-3)
            assert text(cell).startswith(f"{margin:.3f}")
            assert text(cell).endswith("under") == (floor is not None and margin < floor)
            lines = [float(line.get("x1", "")) for line in cell.iter("line")]
            assert lines == ([] if floor is None else [pytest.approx(100 * floor / top, abs=1e-3)])


def level(cell: ET.Element) -> int:
    side, _, steps = cell.get("class", "").split()[0].partition("-")
    return {"zero": 0, "above": 1, "below": -1}[side] * int(steps or 0)


def test_the_heat_map_shows_every_logit_on_a_scale_symmetric_about_zero(
    evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]
) -> None:
    shown, seen = case_rows(pages["failing"], "heat"), []
    for result in evaluations["failing"].results:
        if result.decision:
            logits = [*result.decision.logits.agent, *result.decision.logits.role]
            cells = shown[result.case.id]
            values = [float(text(cell).split()[0].replace("−", "-")) for cell in cells]
            assert values == [pytest.approx(value, abs=0.00501) for value in logits]
            chosen = [place for place, cell in enumerate(cells) if "chosen" in cell.get("class", "")]
            assert chosen == [result.decision.slot, 7 + result.decision.role]
            seen += zip(logits, map(level, cells), strict=True)
    largest = max(abs(value) for value, _ in seen)
    assert all(abs(steps - 6 * value / largest) <= 0.5 + 1e-9 for value, steps in seen)
    assert max(abs(steps) for _, steps in seen) == 6


def test_what_was_expected_instead_is_marked(evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]) -> None:
    shown = case_rows(pages["failing"], "heat")
    for result in evaluations["failing"].results:
        if decision := result.decision:
            expected = result.case.expected
            wanted = [expected.slot] * (expected.slot != decision.slot)
            wanted += [7 + expected.role] * (expected.role != decision.role)
            cells = enumerate(shown[result.case.id])
            assert [place for place, cell in cells if "expected" in cell.get("class", "").split()] == wanted


def test_the_matrix_counts_decisions_and_says_where_others_were_expected(
    evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]
) -> None:
    results = evaluations["failing"].results
    returned = Counter((r.decision.slot, r.decision.role) for r in results if r.decision)
    expected = Counter((r.case.expected.slot, r.case.expected.role) for r in results)
    for slot, (_, *cells) in enumerate(rows(pages["failing"], "matrix")):
        for role, cell in zip(Role, cells, strict=False):
            count, wanted = returned[slot, role], expected[slot, role]
            assert text(cell) == (str(count) if count == wanted else f"{count}expected {wanted}")
        assert text(cells[-1]) == str(sum(returned[slot, role] for role in Role))


def test_drift_is_that_of_the_evaluation_the_largest_first(
    evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]
) -> None:
    evaluation = evaluations["failing"]
    first, *others = rows(pages["failing"], "drift")
    overall = evaluation.distance
    assert overall is not None
    assert [float(text(cell)) for cell in first[1:4]] == [
        pytest.approx(value, abs=1e-6) for value in (overall.cosine, overall.relative_l2, overall.largest)
    ]
    found = [float(text(cells[3])) for cells in others]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0
    assert len(others) == sum(result.recorded is not None for result in evaluation.results) == 60
    assert {text(cells[4]) for cells in others} == {"drifted"}


def test_hashes_that_agree_are_said_to_agree(pages: dict[str, ET.Element]) -> None:
    assert {text(cells[-1]) for cells in case_rows(pages["passing"], "drift").values()} == {"same"}


def test_hashes_of_another_system_are_not_compared(evaluations: dict[str, Evaluation]) -> None:
    evaluation = evaluations["passing"]
    assert evaluation.snapshot is not None
    foreign = replace(evaluation.snapshot, own_hashes=False)
    results = tuple(replace(result, route_hash_drifted=None) for result in evaluation.results)
    page = tree(render_report(replace(evaluation, snapshot=foreign, results=results)))
    assert {text(cells[-1]) for cells in case_rows(page, "drift").values()} == {"not compared"}
    assert "made by another system" in text(page)


def test_a_snapshot_of_other_slots_is_shown_and_not_compared(evaluations: dict[str, Evaluation]) -> None:
    result = evaluations["passing"].results[0]
    assert result.recorded is not None
    recorded = result.recorded.model_copy(update={"agent_logits_rounded": [0.5, 0.25]})
    snapshot = make_snapshot("other", True, [recorded])
    changed = replace(result, recorded=recorded, distance=None)
    page = tree(render_report(replace(evaluations["passing"], snapshot=snapshot, results=(changed,))))
    assert text(case_rows(page, "drift")[result.case.id][0]) == "another number of slots"
    assert "nothing in the snapshot can be compared" in text(page)


def test_what_is_missing_is_said(pages: dict[str, ET.Element]) -> None:
    page = text(pages["bare"])
    assert "There is no snapshot to compare with." in page
    assert page.count("no floor is known") == 2
    assert pages["bare"].find(".//table[@class='drift']") is None


@pytest.mark.parametrize("table", ["margins", "heat"])
def test_a_case_that_was_not_routed_has_its_row(pages: dict[str, ET.Element], table: str) -> None:
    assert [text(cell) for cell in case_rows(pages["failing"], table)["too_long"]] == ["could not be routed"]


def test_nothing_routed_at_all_is_still_a_page(evaluations: dict[str, Evaluation]) -> None:
    lost = next(result for result in evaluations["failing"].results if result.decision is None)
    page = tree(render_report(replace(evaluations["failing"], results=(lost,), snapshot=None)))
    assert "1 of 1 case fails" in text(page)


def with_choice(result: CaseResult, **changes: object) -> CaseResult:
    assert result.decision is not None
    choice = replace(result.decision.choice, **changes)  # type: ignore[arg-type]
    return replace(result, decision=replace(result.decision, choice=choice))


def test_a_split_without_a_second_candidate_has_no_bar(evaluations: dict[str, Evaluation]) -> None:
    alone = with_choice(evaluations["bare"].results[0], margins=Margins(None, 1.0))
    page = tree(render_report(replace(evaluations["bare"], results=(alone,))))
    assert text(case_rows(page, "margins")[alone.case.id][0]) == "no second candidate"


def test_a_tie_is_named(evaluations: dict[str, Evaluation]) -> None:
    tied = with_choice(evaluations["bare"].results[0], margins=Margins(0.0, 1.0), tied_slots=(0, 3))
    page = tree(render_report(replace(evaluations["bare"], results=(tied,))))
    agent, role = case_rows(page, "margins")[tied.case.id]
    assert text(agent) == "0.000 tie"
    assert text(role) == "1.000"


def test_the_environment_is_told_in_full(evaluations: dict[str, Evaluation], pages: dict[str, ET.Element]) -> None:
    evaluation = evaluations["passing"]
    shown = {text(name): text(value) for name, value in rows(pages["passing"], "environment")}
    assert shown["suite sha256"] == evaluation.suite.sha256
    assert shown["snapshot"] == "lane mlx/nano"
    assert shown["adapter ref"] == evaluation.environment["adapter_ref"]
    assert shown["quantize"] == "none"
    assert shown["software · torch"] == evaluation.environment["software"]["torch"]


def test_the_same_evaluation_gives_the_same_page(evaluations: dict[str, Evaluation]) -> None:
    assert render_report(evaluations["failing"]) == render_report(evaluations["failing"])


def test_a_report_is_written_whole(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    target = tmp_path / "new" / "report.html"
    write_report(target, evaluations["hostile"])
    assert target.read_bytes().decode("utf-8") == render_report(evaluations["hostile"])
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_a_path_that_is_no_unicode_does_not_stop_the_report(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    odd = make_snapshot("lane \udcff.json", True, [])
    write_report(tmp_path / "report.html", replace(evaluations["bare"], snapshot=odd))
    assert "lane ?.json" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(FolderUnavailable, match=r"file/report\.html cannot be written"):
        write_report(tmp_path / "file" / "report.html", evaluations["bare"])


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_signed_numbers_read_back(value: float, digits: int) -> None:
    shown = signed(value, digits)
    assert float(shown.replace("−", "-")) == float(f"{value:.{digits}f}")
    assert "-" not in shown
    assert not re.fullmatch(r"−0(\.0*)?", shown)


@given(st.text())
def test_visible_text_holds_no_control_character_but_tabs_and_line_feeds(given_text: str) -> None:
    shown = visible(given_text)
    assert len(shown) == len(given_text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", shown)
    assert visible(shown) == shown
