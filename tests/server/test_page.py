"""The page at / in a real browser: a question, its turns, its answer; and a page that only its own script may touch."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ..evaluation.test_report_browser import CHROMIUM, Browser
from ..evaluation.test_report_browser import browser as browser  # a fixture
from .serving import by_role, running, team

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def until(browser: Browser, expression: str) -> Any:
    """The first value of an expression that is something."""
    ends = time.monotonic() + 120
    while not (value := browser.value(expression)):
        assert time.monotonic() < ends, expression
        time.sleep(0.05)
    return value


def test_a_question_is_answered_with_its_turns_and_no_text_becomes_markup(browser: Browser) -> None:
    with running(team(by_role(f"It is 42. {EVIL}"), keys=("k",))) as address:
        browser.events.clear()
        browser.call("Page.navigate", url=f"{address}/")
        assert until(browser, "document.getElementById('state')?.textContent") == "Type the key in."
        browser.value(
            "const key = document.getElementById('key'); key.value = 'k'; key.dispatchEvent(new Event('change'))"
        )
        names = until(
            browser, "document.getElementById('model').options.length > 1 && document.getElementById('model').value"
        )
        assert names == "trinity"
        browser.value("document.getElementById('send').click()")
        rows = until(
            browser, "[...document.querySelectorAll('#talk table tr')].slice(1).map(row => row.cells[1].textContent)"
        )
        said = browser.value("[...document.querySelectorAll('#talk .said')].map(each => each.textContent)")
        title = browser.value("document.title")
        kept = browser.value("[sessionStorage.getItem('key'), localStorage.length]")
    assert rows == ["Worker", "Verifier"]
    assert said[-1] == f"It is 42. {EVIL}"
    assert title == "trinity-mlx"
    assert kept == ["k", 0]
    faults = [event["entry"] for event in browser.seen("Log.entryAdded") if event["entry"]["level"] == "error"]
    assert [fault for fault in faults if "401" not in fault["text"] and "favicon" not in str(fault.get("url"))] == []
