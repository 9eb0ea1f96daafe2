"""mlx-lm's own server with a small model, on a port that it takes itself: nobody else can take it before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from .file_server import wait_for


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """The base_url of an OpenAI-compatible agent."""
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: bool(_ports(process)), 300)
            yield f"http://127.0.0.1:{_ports(process)[0]}/v1"
        finally:
            process.terminate()


def _ports(process: subprocess.Popen[bytes]) -> list[int]:
    """Where ``process`` listens."""
    assert process.poll() is None, "mlx_lm.server has ended"
    connections = psutil.Process(process.pid).net_connections("tcp")
    return [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]
