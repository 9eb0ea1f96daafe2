"""A request from its reading to its last byte: a place to work, a stream or a whole answer, an end in every case."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..contracts.errors import TrinityError
from . import sse
from .access import Account
from .asgi import EVENTS, Headers, Receive, Scope, Send, ended, header, send_head, send_json, while_present
from .asking import Ask, checked
from .counting import Counter
from .drain import going_down
from .forms import check_schema
from .frames import Frames, Outflow
from .models import Target
from .narration import Narrator
from .narrowing import read_narrowing
from .problems import Kind, Problem, problem_of
from .segment import Caller, Segment
from .service import Service, session_key
from .voices import Ending, Voice

LOG = logging.getLogger("trinity_mlx.server")
MakeVoice = Callable[[str], Voice]
"""A voice for the run of that name."""
WhenWhole = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Interface:
    """What is particular to one request: how its interface speaks and names calls, what becomes of the answer."""

    make_voice: MakeVoice
    id_prefix: str
    when_whole: WhenWhole | None = None


async def answer(service: Service, ask: Ask, interface: Interface, scope: Scope, receive: Receive, send: Send) -> None:
    """Carry out ``ask`` and send what comes of it.

    Raises:
        Problem: there is no answer, and nothing has been sent yet.
        ClientGone: the client has left; its run has been cancelled.
    """
    ask = checked(ask, service.settings.limits)
    if ask.response_format is not None:
        check_schema(ask.response_format)
    target = service.catalogue.find(ask.model)
    segment = _segment(service, ask, target, interface, scope)
    account: Account = scope["account"]
    work = _Work(service, segment, interface, ask, account)
    with service.drain.work():
        async with while_present(receive, lambda: account.is_answered), service.capacity.place(scope["principal"]):
            await work.carry_out(send)


def _segment(service: Service, ask: Ask, target: Target, interface: Interface, scope: Scope) -> Segment:
    named = [header(scope, name) for name in ("x-trinity-session", "x-claude-code-session-id", "session-id")]
    first = "\n".join(message.text for message in ask.messages if message.role != "assistant")[:4_000]
    principal = scope["principal"]
    session = session_key(principal, target.pool, *named, ask.session, first=first)
    narrowing = read_narrowing(scope, ask.metadata)
    caller = Caller(principal, session, interface.id_prefix, _patience_s(scope))
    return Segment(service, ask, target, narrowing, caller, scope["account"])


def _patience_s(scope: Scope) -> float | None:
    """How long the client will wait, where it says so: the SDKs of Anthropic and OpenAI do, in seconds."""
    text = header(scope, "x-stainless-timeout") or header(scope, "x-stainless-read-timeout") or ""
    return float(text) if re.fullmatch(r"[1-9]\d{0,5}(\.\d{1,3})?", text) else None


class _Work:
    """One request at work; used once."""

    def __init__(self, service: Service, segment: Segment, interface: Interface, ask: Ask, account: Account) -> None:
        self._service = service
        self._segment = segment
        self._interface = interface
        self._is_streamed = ask.is_streamed
        self._voice = interface.make_voice(segment.run_id)
        self._frames = Frames()
        self._problem: Problem | None = None
        self._account = account
        self._narrator = Narrator(
            self._voice,
            self._frames.put,
            segment.team.pool,
            shows_text=segment.shows_text and ask.is_streamed,
            stops=ask.sampling.stop,
            listen=Counter(service.metrics, segment.target.pool, account).count,
        )

    async def carry_out(self, send: Send) -> None:
        """The run beside what is sent of it; when this is cancelled, so is the run."""
        run = asyncio.create_task(self._run())
        try:
            with self._service.drain.farewell(run.cancel):
                await (self._stream(send) if self._is_streamed else self._whole(send, run))
        finally:
            await ended(run)

    async def _run(self) -> Ending | None:
        """The segment, whose end or problem is the last thing that the voice says."""
        try:
            ending = await self._segment.carry_out(self._narrator)
            self._narrator.begin()
            self._frames.put(self._voice.end(ending))
        except Problem as problem:
            self._fail(problem)
        except TrinityError as error:
            self._fail(problem_of(error))
        except asyncio.CancelledError:
            self._fail(going_down())
            raise
        except Exception:
            LOG.exception("run %s failed", self._segment.run_id)
            self._fail(
                Problem(Kind.SERVER, f"something went wrong in the server; it is logged as {self._segment.run_id}")
            )
        else:
            if self._interface.when_whole is not None:
                self._interface.when_whole(self._voice.body())
            return ending
        finally:
            self._frames.end()
        return None

    def _fail(self, problem: Problem) -> None:
        self._account.outcome = problem.code or str(problem.kind)
        self._problem = problem
        if self._narrator.has_begun:
            self._frames.put(self._voice.fail(problem))

    async def _whole(self, send: Send, run: asyncio.Task[Ending | None]) -> None:
        await asyncio.wait({run})
        if self._problem is not None:
            raise self._problem
        ending = run.result()
        assert ending is not None
        await send_json(send, 200, self._voice.body(), self._headers(ending))

    async def _stream(self, send: Send) -> None:
        """The head once there is something to say, so that what fails before has its status; then frame by frame."""
        if not await self._frames.wait():
            raise self._problem or going_down()
        await asyncio.sleep(0)  # first the run asks whom it has told of, and then the client hears of it
        await send_head(send, 200, [("content-type", EVENTS), *sse.HEADERS, *self._headers(None)])
        await Outflow(self._frames, send, self._voice.heartbeat, self._service.settings.heartbeat_s).run()

    def _headers(self, ending: Ending | None) -> Headers:
        headers = [("x-trinity-run-id", self._segment.run_id)]
        if ending is not None:
            turns = ending.report["turns"]
            agents = ",".join(dict.fromkeys(turn["agent"] for turn in turns))
            headers += [("x-trinity-outcome", ending.outcome), ("x-trinity-turns", str(len(turns)))]
            headers += [("x-trinity-agents", agents)]
        return headers
