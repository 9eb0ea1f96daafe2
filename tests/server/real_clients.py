"""Where the real clients are, and how each is pointed at a server: in a home of its own, with a key that opens nothing.

``TRINITY_TEST_CLIENTS`` names a folder with what ``npm install`` put there, and perhaps a virtual environment ``py``;
without it they are looked for on the path. Versions are pinned, because clients change their minds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

CODEX, CLAUDE = "0.169.0", "2.1.330"
KEY = "dummy-key"


@dataclass(frozen=True)
class Finished:
    """What a client printed, and how it ended."""

    code: int
    out: str
    err: str


def program(name: str, version: str | None = None) -> Path:
    """The program, or a skipped test that says why."""
    folder = os.environ.get("TRINITY_TEST_CLIENTS")
    places = [Path(folder) / "node_modules/.bin" / name, Path(folder) / "py/bin" / name] if folder else []
    found = next((place for place in places if place.exists()), None) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: npm install in the folder that TRINITY_TEST_CLIENTS names")
    if version is not None:
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=300).stdout
        if version not in told:
            pytest.skip(f"{name} is {told.strip() or 'unwilling'}, and these tests are about {version}")
    return Path(found)


def run(command: list[str | Path], home: Path, folder: Path, environment: Mapping[str, str]) -> Finished:
    """Run a client in ``folder`` with nothing of this machine's own settings."""
    (home / ".codex").mkdir(parents=True, exist_ok=True)
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "NO_COLOR": "1", **environment}
    finished = subprocess.run(
        command,
        cwd=folder,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def codex(address: str, home: Path, folder: Path, prompt: str, *options: str) -> Finished:
    """``codex exec`` with a provider of its own."""
    provider = {"name": "trinity", "base_url": f"{address}/v1", "env_key": "TRINITY_API_KEY", "wire_api": "responses"}
    settings = [f'-c=model_providers.trinity.{name}="{value}"' for name, value in provider.items()]
    command = [program("codex", CODEX), "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"]
    told = [*command, *settings, '-c=model_provider="trinity"', '-c=model="trinity"', *options, prompt]
    return run(told, home, folder, {"TRINITY_API_KEY": KEY, "CODEX_HOME": str(home / ".codex")})


def claude(address: str, home: Path, folder: Path, prompt: str, *options: str) -> Finished:
    """``claude -p``."""
    environment = {
        "ANTHROPIC_BASE_URL": address,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    command = [program("claude", CLAUDE), "-p", prompt, "--model", "claude-trinity", *options]
    return run(command, home, folder, environment)
