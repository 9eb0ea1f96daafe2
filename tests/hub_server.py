"""As much of the Hugging Face Hub as one download of a repository takes, and who asked for it with which token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from .loopback import Quiet, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """A Hub with the files of one folder as the model repository ``me/base``."""

    folder: Path
    url: str = ""
    tokens: list[str | None] = field(default_factory=list)
    """The ``Authorization`` of each request, in order."""

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        files = [file.name for file in sorted(self.folder.iterdir()) if file.is_file()]
        if path.startswith("/api/models/me/base/tree/"):
            sizes = {name: (self.folder / name).stat().st_size for name in files}
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        if path.startswith("/api/models/me/base"):
            listing = [{"rfilename": name} for name in files]
            body = {"id": "me/base", "sha": COMMIT, "siblings": listing, "private": False, "tags": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        name = path.rpartition("/")[2]
        if not path.startswith("/me/base/resolve/") or name not in files:
            return 404, {}, b""
        content = (self.folder / name).read_bytes()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


@contextmanager
def running(folder: Path) -> Iterator[HubServer]:
    """A server on a free port of the loopback."""
    state = HubServer(folder)

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.tokens.append(self.headers.get("Authorization"))
            status, headers, body = state.answer(self.command, self.path.partition("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

    with serving(Handler) as state.url:
        yield state
