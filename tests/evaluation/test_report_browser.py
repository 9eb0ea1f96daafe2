"""The report in a real browser: nothing overflows, nothing overlaps, everything can be read, nothing is fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from trinity_mlx.evaluation.report import write_report
from trinity_mlx.evaluation.results import Evaluation

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]
WIDTHS = {1280: 800, 390: 844}

OVERFLOWS = """
(() => {
  const clipped = element => {
    for (let box = element.parentElement; box; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== 'visible') return true;
    return false;
  };
  const name = element => element.tagName + '.' + (element.getAttribute('class') || '') + ': ' +
    element.textContent.trim().slice(0, 60);
  const page = document.scrollingElement;
  const found = page.scrollWidth > innerWidth ? ['the page is ' + page.scrollWidth + ' wide'] : [];
  for (const element of document.body.querySelectorAll('*')) {
    const style = getComputedStyle(element);
    if (!element.checkVisibility()) continue;
    if (!clipped(element) && element.getBoundingClientRect().right > innerWidth + 0.5)
      found.push('beyond the page: ' + name(element));
    if (element instanceof HTMLElement && style.display !== 'inline' && style.overflowX === 'visible' &&
        element.scrollWidth > element.clientWidth + 1)
      found.push('beyond its box: ' + name(element));
  }
  return found;
})()
"""

TEXTS = """
const texts = () => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility() || parent.closest('.unseen')) continue;
    found.push([node, parent]);
  }
  return found;
};
"""

OVERLAPS = (
    "(() => {"
    + TEXTS
    + """
  const boxes = [];
  for (const [node, parent] of texts()) {
    if (parent.closest('pre, .preview')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) if (box.width > 1) boxes.push([box, node]);
  }
  boxes.sort((a, b) => a[0].top - b[0].top);
  const found = [];
  boxes.forEach(([box, node], at) => {
    for (let next = at + 1; next < boxes.length && boxes[next][0].top < box.bottom - 3; next++) {
      const [other, another] = boxes[next];
      if (node !== another && other.left < box.right - 1 && box.left < other.right - 1)
        found.push(node.data.trim().slice(0, 40) + ' | ' + another.data.trim().slice(0, 40));
    }
  });
  return found;
})()
"""
)

FAINT_TEXTS = (
    "(() => {"
    + TEXTS
    + """
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([red, green, blue]) => [red, green, blue]
    .map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = element => {
    for (let box = element; box; box = box.parentElement) {
      const color = rgba(getComputedStyle(box).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = new Set();
  for (const [node, parent] of texts()) {
    const [dark, bright] = [light(rgba(getComputedStyle(parent).color)), light(behind(parent))].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    if (contrast < 4.5) found.add(contrast.toFixed(2) + ': ' + node.data.trim().slice(0, 30));
  }
  return [...found];
})()
"""
)


class Browser:
    """One page of a headless Chromium, driven by its DevTools protocol."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=300, suppress_origin=True, max_size=None
        )
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its result; what happens meanwhile is kept in ``events``."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while (reply := json.loads(self._socket.recv())).get("id") != self._count:
            self.events.append(reply)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load a page at a width in CSS pixels, forgetting the events of the page before."""
        self._load("about:blank")
        self._ask_for(width, scheme)
        self.events.clear()
        self._load(page.as_uri())
        self._await_shown(width, scheme)

    def show(self, width: int, scheme: str = "light") -> None:
        """Give the page that is open another width or other colours."""
        self._ask_for(width, scheme)
        self._await_shown(width, scheme)

    def unfold(self) -> None:
        """Open all that can be opened."""
        self.value("for (const details of document.querySelectorAll('details')) details.open = true")

    def _ask_for(self, width: int, scheme: str) -> None:
        size = {"width": width, "height": WIDTHS[width]}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def _await_shown(self, width: int, scheme: str) -> None:
        is_dark = "matchMedia('(prefers-color-scheme: dark)').matches"
        shown = f"[innerWidth, document.scrollingElement.clientWidth, {is_dark}]"
        deadline = time.monotonic() + 120
        while self.value(shown) != [width, width, scheme == "dark"]:
            assert time.monotonic() < deadline, "the page is not shown as it was asked for"
            time.sleep(0.02)

    def _load(self, url: str) -> None:
        """Go to an address, and wait for the load of that very document: a command that meets the change may fail."""
        document = self.call("Page.navigate", url=url)["loaderId"]
        loaded = {"name": "load", "loaderId": document}.items()
        self.await_events(lambda: any(loaded <= event.items() for event in self.seen("Page.lifecycleEvent")))

    def await_events(self, condition: Callable[[], bool]) -> None:
        """Wait, without a command, until ``events`` are as they should become."""
        while not condition():
            self.events.append(json.loads(self._socket.recv()))

    def seen(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of one kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def close(self) -> None:
        """Ask the browser to end, which may be over before it answers."""
        self._socket.send(json.dumps({"id": 0, "method": "Browser.close"}))
        self._socket.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        browser = Browser(*_debugger(folder / "DevToolsActivePort", process))
        yield browser
        browser.close()
        process.wait(120)
    finally:
        process.kill()
        process.wait()


def _debugger(announced: Path, process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Port and path of the protocol, which the browser writes down once it listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = announced.read_text(encoding="ascii").split("\n") if announced.is_file() else []
        if len(lines) == 2:
            return int(lines[0]), lines[1]
        time.sleep(0.05)
    raise AssertionError(f"{CHROMIUM} does not start")


@pytest.fixture(scope="module")
def pages(evaluations: dict[str, Evaluation], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    for name, evaluation in evaluations.items():
        write_report(folder / f"{name}.html", evaluation)
    return {name: folder / f"{name}.html" for name in evaluations}


NAMES = ["passing", "failing", "reported", "bare", "hostile", "many"]


def test_the_checks_find_what_they_look_for(browser: Browser, pages: dict[str, Path]) -> None:
    """Faults that are put into a faultless page: too wide, too wide for its box, over another text, faint."""
    browser.open(pages["bare"], 390)
    browser.value(
        """
        const add = (name, style) => {
          const element = document.body.appendChild(document.createElement('p'));
          element.textContent = name;
          Object.assign(element.style, style);
          return element;
        };
        add('wide', {width: '500px'});
        add('narrow', {width: '8px', whiteSpace: 'nowrap'});
        add('faint', {color: '#ccc', background: '#fff'});
        add('above', {position: 'absolute', left: 0, top: 0, font: '8px/8px sans-serif'});
        add('below', {position: 'absolute', left: 0, top: '3px', font: '8px/8px sans-serif'});
        """
    )
    assert browser.value(OVERFLOWS) == [
        "the page is 516 wide",
        "beyond the page: P.: wide",
        "beyond its box: P.: narrow",
    ]
    assert browser.value(OVERLAPS) == ["above | below"]
    assert browser.value(FAINT_TEXTS) == ["1.61: faint"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_overflows_is_fetched_run_or_refused(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width)
    requests = [params["request"]["url"] for params in browser.seen("Network.requestWillBeSent")]
    assert requests == [pages[name].as_uri()]
    assert browser.seen("Log.entryAdded") == []
    assert browser.value("document.scripts.length") == 0
    assert browser.value("'hacked' in window") is False
    assert browser.value("[...document.querySelectorAll('img, [style], [onerror]')].length") == 0
    assert browser.value(OVERFLOWS) == []
    assert browser.value(OVERLAPS) == []


@pytest.mark.parametrize("name", ["failing", "hostile"])
def test_nothing_overflows_when_everything_is_unfolded(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 1280)
    browser.unfold()
    for width in WIDTHS:
        browser.show(width)
        assert browser.value(OVERFLOWS) == []
        assert browser.value(OVERLAPS) == []


@pytest.mark.parametrize("name", ["failing", "reported"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 1280)
    browser.unfold()
    for scheme in ("light", "dark"):
        browser.show(1280, scheme)
        assert browser.value(FAINT_TEXTS) == []


def test_dark_and_light_differ(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["bare"], 1280)
    colours = []
    for scheme in ("light", "dark"):
        browser.show(1280, scheme)
        colours.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert light > 700
    assert dark < 100


def test_a_script_could_not_run_and_an_image_could_not_load(browser: Browser, pages: dict[str, Path]) -> None:
    """The policy holds by itself: what were inserted would still be refused."""
    browser.open(pages["bare"], 1280)
    browser.value(
        """
        document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = true'}));
        document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}));
        """
    )
    browser.await_events(lambda: len(browser.seen("Log.entryAdded")) >= 2)
    refused = [params["entry"]["text"] for params in browser.seen("Log.entryAdded")]
    assert browser.value("'hacked' in window") is False
    assert len([text for text in refused if "Content Security Policy" in text]) == len(refused) == 2


@pytest.mark.parametrize("name", ["failing", "hostile"])
def test_every_link_leads_to_a_place_that_it_opens(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 1280)
    hidden = browser.value(
        """
        (() => {
          const hidden = [];
          for (const link of document.querySelectorAll('a')) {
            link.click();
            const place = document.querySelector(link.getAttribute('href'));
            if (!place || !place.checkVisibility()) hidden.push(link.textContent);
          }
          return hidden.join('; ');
        })()
        """
    )
    assert hidden == ""
