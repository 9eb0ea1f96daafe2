"""docs/method.md holds what docstrings send a reader there for, and its table of stages is the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trinity_mlx
from trinity_mlx.parity.checks import LIMITS

ROOT = Path(trinity_mlx.__file__).parent.parent
DOCUMENT = ROOT / "docs" / "method.md"
CITATION = re.compile(r"([\w/]+\.md), section (\d+)")

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="the documents lie in the checkout")


def test_every_section_that_the_code_names_exists() -> None:
    modules = [path for folder in ("trinity_mlx", "backends") for path in (ROOT / folder).rglob("*.py")]
    cited = {citation for path in modules for citation in CITATION.findall(path.read_text(encoding="utf-8"))}
    headings = {
        (document, number)
        for document in {name for name, _ in cited}
        for number in re.findall(r"^## (\d+)\. ", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert ("docs/method.md", "3") in cited
    assert cited - headings == set()


def test_the_table_of_stages_is_the_one_that_comparisons_use() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| `\w+_?\w*` \|", line)
    ]
    table = {
        name: (needed == "yes", float(largest), float(mean)) for name, _, needed, largest, mean in map(tuple, rows)
    }
    assert table == {stage: (limits.required, limits.max_abs, limits.mean_abs) for stage, limits in LIMITS.items()}
