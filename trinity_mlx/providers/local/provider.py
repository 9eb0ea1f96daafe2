"""A model folder run in this process, by mlx-lm or by transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from ...contracts.errors import EnvironmentUnavailable, PoolInvalid, ProviderRefused, ProviderUnavailable
from ...contracts.pool import Agent
from ...contracts.provider import Finish, OnText, Provider, Reply, Request, ToolMode, Usage
from ..answers import finished_reply
from ..wire.calls import call_of
from ..wire.failures import Callee
from .engine import Engine, Generated, Generation, OpenEngine, PromptRefused, SharedModel
from .heard import Heard, split_calls


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "local"``; its model is loaded when it is first called.

    ``model`` is a folder in Hugging Face layout. ``extra`` may hold ``engine`` (``mlx-lm`` or ``transformers``; by
    default the first that is installed) and ``chat_template_kwargs``, such as ``{enable_thinking = false}``. Agents
    that name one folder share one model, and their answers wait for one another; that counts towards their time.

    Raises:
        PoolInvalid: the folder holds no model, or ``extra`` holds something else.
        EnvironmentUnavailable: the engine is not installed.
    """
    unknown = sorted(set(agent.extra) - {"engine", "chat_template_kwargs"})
    if unknown:
        raise PoolInvalid(
            f"agent {agent.name!r}: extra holds {', '.join(unknown)}; of a local agent it may hold engine and "
            "chat_template_kwargs"
        )
    options = agent.extra.get("chat_template_kwargs", {})
    if not isinstance(options, Mapping):
        raise PoolInvalid(f"agent {agent.name!r}: chat_template_kwargs must be a table, not {options!r}")
    folder = Path(agent.model)
    if not agent.model or not (folder / "config.json").is_file():
        raise PoolInvalid(f"agent {agent.name!r}: {agent.model!r} is no folder of a model: it has no config.json")
    return Local(agent, SharedModel(_engine(agent), folder), options)


class Local:
    """Generates on the model's own thread."""

    is_live = False

    def __init__(self, agent: Agent, model: SharedModel, template_options: Mapping[str, Any]) -> None:
        self._agent = agent
        self._callee = Callee(agent)
        self._model = model
        self._template_options = template_options

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; see ``Provider``. Cancelling it stops the generation before its next token."""
        abandoned = Event()
        pieces = _Pieces()
        heard = Heard(on_text or (lambda text: None), request.sampling.stop, bool(request.tools))
        wanted = self._generation(request, pieces.put, abandoned.is_set)
        generating = self._model.submit(lambda engine: engine.generate(wanted))
        generating.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := await pieces.next()) is not None:
                heard.feed(piece)
                if heard.is_over:
                    abandoned.set()
            heard.end()
            return self._reply(heard, await self._generated(generating), bool(request.tools))
        finally:
            abandoned.set()
            generating.cancel()

    def _generation(self, request: Request, on_text: OnText, is_abandoned: Callable[[], bool]) -> Generation:
        sampling, agent = request.sampling, self._agent
        temperature = agent.temperature if sampling.temperature is None else sampling.temperature
        choice = request.tool_choice
        return Generation(
            messages=request.messages,
            max_tokens=sampling.max_tokens or agent.max_tokens,
            temperature=temperature or 0.0,
            template_options=self._template_options,
            on_text=on_text,
            is_abandoned=is_abandoned,
            tools=() if choice is not None and choice.mode is ToolMode.NONE else request.tools,
            response_format=request.response_format,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )

    async def close(self) -> None:
        """Let go of the model."""
        await asyncio.to_thread(self._model.close)

    async def _generated(self, generating: Future[Generated]) -> Generated:
        try:
            return await asyncio.wrap_future(generating)
        except PromptRefused as error:
            raise self._callee.error(ProviderRefused, str(error)) from None
        except Exception as error:  # whatever an engine raises for a folder that it cannot load
            reason = f"the model cannot be run: {type(error).__name__}: {self._callee.quoted(str(error))}"
            raise self._callee.error(ProviderUnavailable, reason, retryable=False) from None

    def _reply(self, heard: Heard, generated: Generated, has_tools: bool) -> Reply:
        text, calls = split_calls(heard.text) if has_tools else (heard.text, [])
        return finished_reply(
            self._callee,
            text,
            Finish.LENGTH if generated.is_cut and not heard.is_over else Finish.STOP,
            calls=[call_of(self._callee, None, name, arguments) for name, arguments in calls],
            usage=Usage(generated.prompt_tokens, generated.generated_tokens),
        )


class _Pieces:
    """Text on its way from the model's thread to the event loop; None ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def put(self, piece: str | None) -> None:
        """Called on any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)

    async def next(self) -> str | None:
        """The next piece, None after the last."""
        return await self._queue.get()


def _open_mlx(folder: Path) -> Engine:
    from .mlx import open_engine

    return open_engine(folder)


def _open_transformers(folder: Path) -> Engine:
    from .transformers import open_engine

    return open_engine(folder)


_ENGINES: dict[str, tuple[tuple[str, ...], OpenEngine]] = {
    "mlx-lm": (("mlx_lm",), _open_mlx),
    "transformers": (("torch", "transformers"), _open_transformers),
}
"""By name, best first: the packages that it needs here, and what opens a folder."""


def _engine(agent: Agent) -> OpenEngine:
    installed = [name for name, (packages, _) in _ENGINES.items() if all(map(find_spec, packages))]
    wanted = agent.extra.get("engine", installed[0] if installed else "mlx-lm")
    if wanted not in _ENGINES:
        raise PoolInvalid(f"agent {agent.name!r}: no engine {wanted!r}; there are {', '.join(_ENGINES)}")
    if wanted not in installed:
        raise EnvironmentUnavailable(
            f"agent {agent.name!r}: the engine {wanted!r} is not installed: pip install 'trinity-mlx[local]', and for "
            "transformers 'trinity-mlx[local,torch]'"
        )
    return _ENGINES[wanted][1]
