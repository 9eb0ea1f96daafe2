"""Chat Completions, spoken: chunks, and the whole answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts.provider import Finish, Usage
from ..contracts.transcript import ToolCall
from . import sse
from .asking import ToolSpeech
from .problems import Problem, openai_error
from .voices import REVISED, Ending

DONE = b"data: [DONE]\n\n"
_FINISH = {
    Finish.LENGTH: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.CONTENT_FILTER: "content_filter",
}


class ChatVoice:
    """Says an answer as ``chat.completion`` or its chunks.

    Args:
        run_id: the run's name, which the answer's id holds.
        model: the model's name, as it was asked for.
        speech: what the interface calls each tool.
        with_usage: whether a last chunk tells the usage.
    """

    def __init__(self, run_id: str, model: str, speech: Mapping[str, ToolSpeech], with_usage: bool = False) -> None:
        self._head = {"id": f"chatcmpl-{run_id}", "created": int(time.time()), "model": model}
        self._speech = speech
        self._with_usage = with_usage
        self._texts: list[list[str]] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._refusal: str | None = None
        self._ending: Ending | None = None

    def begin(self) -> bytes:
        """The role."""
        return self._chunk({"role": "assistant", "content": ""})

    def progress(self, line: str) -> bytes:
        """A line of ``reasoning_content``, which clients that do not know it pass over."""
        self._reasoning.append(line)
        return self._chunk({"reasoning_content": line})

    def open_text(self, *, revised: bool = False, commentary: bool = False) -> bytes:
        """Nothing, or the mark that stands before a revised text: a chat's content has no borders."""
        self._texts.append([])
        return self._chunk({"content": REVISED}) if revised else b""

    def text(self, piece: str) -> bytes:
        """A piece of the content."""
        self._texts[-1].append(piece)
        return self._chunk({"content": piece})

    def close_text(self) -> bytes:
        """Nothing: content has no borders."""
        return b""

    def refusal(self, text: str) -> bytes:
        """The refusal."""
        self._refusal = text
        return self._chunk({"refusal": text})

    def calls(self, calls: Sequence[ToolCall]) -> bytes:
        """Each call, whole."""
        self._calls = [self._call(call) for call in calls]
        indexed = [{"index": index, **call} for index, call in enumerate(self._calls)]
        return self._chunk({"tool_calls": indexed})

    def end(self, ending: Ending) -> bytes:
        """The reason of the end, the usage where it was asked for, and the end of the stream."""
        self._ending = ending
        report = {"trinity": ending.report}
        last = self._chunk({}, finish=_FINISH.get(ending.finish, "stop"), **report)
        usage = self._object([], usage=_usage(ending.usage)) if self._with_usage else b""
        return last + usage + DONE

    def fail(self, problem: Problem) -> bytes:
        """An error in the stream, and its end."""
        return sse.data(openai_error(problem)) + DONE

    def heartbeat(self) -> bytes:
        """A comment."""
        return sse.comment("at work")

    def body(self) -> dict[str, Any]:
        """The whole ``chat.completion``; of texts that were revised, the last."""
        ending = self._ending
        assert ending is not None
        content = "".join(self._texts[-1]) if self._texts else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": self._refusal}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
        reason = _FINISH.get(ending.finish, "stop")
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        outcome = {"usage": _usage(ending.usage), "trinity": ending.report}
        return {**self._head, "object": "chat.completion", "choices": [choice], **outcome}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        said = self._speech.get(call.name) or ToolSpeech(call.name)
        if said.is_custom:
            inner = {"name": said.name, "input": custom_input(call.arguments)}
            return {"id": call.id, "type": "custom", "custom": inner}
        return {"id": call.id, "type": "function", "function": {"name": said.name, "arguments": call.arguments}}

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._object([choice], **({"usage": None} if self._with_usage else {}), **more)

    def _object(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return sse.data({**self._head, "object": "chat.completion.chunk", "choices": choices, **more})


def custom_input(arguments: str) -> str:
    """The one text that a custom tool takes, out of the arguments that stood for it."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
