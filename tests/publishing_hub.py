"""A Hub that takes what is published, and that the program which publishes may not survive."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from .loopback import Quiet, serving


@dataclass
class PublishingHub:
    """As much of the Hub's protocol as one commit takes; it asks for every file inside the commit itself."""

    url: str = ""
    committed: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    validated: list[str] = field(default_factory=list)
    """Cards that were shown for validation before the commit."""
    visibility: str | None = None
    kill: tuple[int, str] | None = None
    """Which request the program that asks does not survive, and whether that is ``before`` or ``after`` it is done."""
    client: Future[int] = field(default_factory=Future)
    """The number of that program's process, which may ask before whoever has started it knows it."""

    def environment(self, home: Path) -> dict[str, str]:
        """What a program needs to take this for the Hub."""
        return {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def answered(self, method: str, path: str, body: bytes) -> tuple[int, Any] | None:
        """The answer; None where nobody is left to take it."""
        number = len(self.calls)
        if self.kill == (number, "before"):
            self.kill_client()
            return None
        answer = self.answer(method, path, body)
        if self.kill == (number, "after"):
            self.kill_client()
            return None
        return answer

    def kill_client(self) -> None:
        os.kill(self.client.result(), signal.SIGKILL)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        repo = "/api/models/me/router"
        if path == "/api/repos/create":
            request = json.loads(body)
            self.visibility = request.get("visibility")
            if (request.get("organization"), request["name"]) != ("me", "router"):
                return 403, {"error": "this is not yours"}
            return 200, {"url": f"{self.url}/me/router"}
        if path == "/api/validate-yaml":
            self.validated.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}
        if path.startswith(f"{repo}/revision/"):
            known = path.rpartition("/")[2] in self.tags
            return (200, {"id": "me/router", "sha": "1" * 40}) if known else (404, {})
        if path.startswith(f"{repo}/preupload/"):
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return 200, {"files": modes}
        if path.startswith(f"{repo}/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            self.committed |= {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            return 200, {"commitUrl": f"{self.url}/me/router/commit/{'2' * 40}", "commitOid": "2" * 40}
        if path.startswith(f"{repo}/tag/"):
            self.tags.append(json.loads(body)["tag"])
            return 200, {}
        return 404, {}


@contextmanager
def running() -> Iterator[PublishingHub]:
    """One on a free port of the loopback."""
    state = PublishingHub()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = state.answered(self.command, self.path.partition("?")[0], body)
            if answer is None:
                self.close_connection = True
                return
            status, value = answer
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            if status == 404:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.end_headers()
            self.wfile.write(raw)

        def do_POST(self) -> None:
            self.do_GET()

    with serving(Handler) as state.url:
        yield state
