"""Tools that a run calls by itself: Python callables, by name."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..contracts.errors import UsageError
from ..contracts.parts import Image, Text, ToolCall, ToolResult
from ..contracts.provider import Tool

Callables = Mapping[str, Callable[..., Any]]
"""Functions by the names under which models know them; those that give an awaitable are awaited."""

TIME_S = 60.0
"""Seconds that a tool may take."""
LONGEST_RESULT = 100_000
"""Characters that are kept of a result: its beginning and its end."""


class ToolBox:
    """Calls ``callables`` for a run. What goes wrong in a tool is its result, and the model's to deal with.

    A callable's signature says what arguments it takes, its docstring what it does. One that is no coroutine function
    is called on a thread, which goes on by itself where its time is over.

    Raises:
        UsageError: a signature cannot be told to a model.
    """

    def __init__(self, callables: Callables, time_s: float = TIME_S, longest_result: int = LONGEST_RESULT) -> None:
        self._tools = {name: _Adapted(name, function) for name, function in callables.items()}
        self._time_s = time_s
        self._longest = longest_result

    @property
    def definitions(self) -> tuple[Tool, ...]:
        """The tools as a model is told of them."""
        return tuple(tool.definition for tool in self._tools.values())

    async def call_all(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """The results of ``calls``, in their order; they are made at once."""
        return list(await asyncio.gather(*(self.call(call) for call in calls)))

    async def call(self, call: ToolCall) -> ToolResult:
        """The result of one call."""
        if call.name not in self._tools:
            known = f"there is no such tool: the tools are {', '.join(self._tools)}"
            return ToolResult.of_text(call.id, self._fitting(known), is_error=True)
        try:
            value = await self._value(self._tools[call.name], call.arguments)
            return self._result(call.id, value)
        except Exception as error:
            return ToolResult.of_text(call.id, self._fitting(_words(error)), is_error=True)

    async def _value(self, tool: _Adapted, arguments: str) -> Any:
        task = asyncio.ensure_future(tool.call(_arguments(arguments)))
        try:
            await asyncio.wait({task}, timeout=self._time_s)
        finally:
            if not task.done():
                task.cancel()
        if not task.done():
            raise TimeoutError(f"the tool gave no result within {self._time_s:g} s")
        return task.result()

    def _result(self, call_id: str, value: Any) -> ToolResult:
        if isinstance(value, Text | Image):
            value = (value,)
        if isinstance(value, tuple | list) and value and all(isinstance(item, Text | Image) for item in value):
            parts = (Text(self._fitting(item.text)) if isinstance(item, Text) else item for item in value)
            return ToolResult(call_id, tuple(parts))
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return ToolResult.of_text(call_id, self._fitting(text))

    def _fitting(self, text: str) -> str:
        """``text`` as UTF-8 can hold it, and of the length that is kept."""
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        left_out = len(text) - self._longest
        if left_out <= 0:
            return text
        half = self._longest // 2
        return f"{text[:half]}\n[{left_out} characters left out]\n{text[len(text) - half :]}"


class _Adapted:
    """One callable, its arguments read and checked by its signature."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        from pydantic import TypeAdapter

        self._is_async = inspect.iscoroutinefunction(function)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(function)  # type: ignore[arg-type]
            schema = self._adapter.json_schema()
        except Exception as error:
            raise UsageError(f"tool {name!r}: its signature cannot be told to a model: {_words(error)[:300]}") from None
        self.definition = Tool(name, inspect.getdoc(function) or "", schema)

    def call(self, arguments: dict[str, Any]) -> Awaitable[Any]:
        return self._awaited(arguments) if self._is_async else asyncio.to_thread(self._checked, arguments)

    async def _awaited(self, arguments: dict[str, Any]) -> Any:
        return await self._checked(arguments)

    def _checked(self, arguments: dict[str, Any]) -> Any:
        from pydantic_core import ArgsKwargs

        return self._adapter.validate_python(ArgsKwargs((), arguments))


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments are JSON, but not an object")
    return arguments


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
