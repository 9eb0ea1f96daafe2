"""docs/traces.md lists every event and every field, and no others."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from trinity_mlx.contracts.events import Event
from trinity_mlx.tracing.record import ENVELOPE, EVENTS, LONGEST_TEXT
from trinity_mlx.tracing.redaction import MARK, SHORTEST_INSIDE
from trinity_mlx.tracing.verify import FOLLOWERS

DOCS = Path(__file__).parents[2] / "docs" / "traces.md"

pytestmark = pytest.mark.skipif(not DOCS.is_file(), reason="the documents lie in the checkout")


def named_fields(section: str) -> list[str]:
    """Names in the first column of a section's table."""
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def sections() -> dict[str, str]:
    text = DOCS.read_text(encoding="utf-8").partition("## Events")[2].partition("\n## ")[0]
    _, *parts = re.split(r"^### `(\w+)`$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_event_has_a_section() -> None:
    assert list(sections()) == [event.kind for event in get_args(Event)] == list(EVENTS)


@pytest.mark.parametrize("event", get_args(Event))
def test_every_field_has_a_row(event: type[Event]) -> None:
    assert sorted(named_fields(sections()[event.kind])) == sorted(field.name for field in fields(event))


def test_the_keys_of_every_line_have_rows() -> None:
    lines = DOCS.read_text(encoding="utf-8").partition("## Lines")[2].partition("## Events")[0]
    assert tuple(named_fields(lines)) == ENVELOPE


@pytest.mark.parametrize("event", get_args(Event))
def test_no_field_hides_a_key_of_every_line(event: type[Event]) -> None:
    assert {field.name for field in fields(event)} & set(ENVELOPE) == set()


def test_the_order_of_events_is_the_one_that_is_checked() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## Verification")[2]
    rows = dict(re.findall(r"^    (\w+) +(.*)$", text, re.MULTILINE))
    told = {kind: set(re.findall(r"\w+_\w+|routed|fallback|reviewed", row)) for kind, row in rows.items()}
    enforced = {kind: following - {"run_failed"} for kind, following in FOLLOWERS.items() if kind and following}
    assert told == enforced


def test_figures_and_checks_are_the_real_ones() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert f"after {LONGEST_TEXT} characters" in text
    assert f"fewer than {SHORTEST_INSIDE} characters" in text
    assert f"`{MARK}` replaces:" in text
