"""The process: a socket, uvicorn, and signals that end it in order."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ..contracts.errors import EnvironmentUnavailable
from .asgi import App
from .service import Service

BACKLOG = 2048
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        EnvironmentUnavailable: the address is taken, none, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        name = host.strip("[]").encode("idna").decode()
        return socket.create_server((name, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise EnvironmentUnavailable(f"cannot listen on {host} port {port}: {why}; choose another") from None


class Server(uvicorn.Server):
    """uvicorn, which on a signal first lets what is under way end: uvicorn itself cuts streams without a last event.

    A second signal ends everything at once.
    """

    def __init__(self, app: App, service: Service, grace_s: float, tell: Callable[[str], None]) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self._service = service
        self._grace_s = grace_s
        self._tell = tell
        self._stopping: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals in the event loop, for as long as the server runs."""
        loop = asyncio.get_running_loop()
        for each in _SIGNALS:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in _SIGNALS:
                loop.remove_signal_handler(each)

    def stop(self) -> None:
        """Go down in order; the second time, at once."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._drain())
        else:
            self.force_exit = self.should_exit = True

    async def _drain(self) -> None:
        under_way = self._service.drain.open
        if under_way:
            self._tell(f"going down: {under_way} requests have up to {self._grace_s:g} s to end")
        early = await self._service.drain.finish(self._grace_s)
        if early:
            self._tell(f"{early} requests were ended early, and told so")
        self.should_exit = True


def settle() -> None:
    """Put what has been loaded so far beyond the garbage collector's reach.

    It never becomes garbage, and going over all of it (200,000 objects) would hold up every stream for a tenth of a
    second.
    """
    gc.collect()
    gc.freeze()


async def serve(server: Server, service: Service, place: socket.socket) -> None:
    """Serve on ``place`` until a signal; the router is tried at once, so that readiness comes without a request."""
    settle()
    warming = asyncio.create_task(service.router.warm())
    try:
        await server.serve(sockets=[place])
    finally:
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        await service.close()
