"""Messages, spoken: events, and the whole message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts.provider import Finish, Usage
from ..contracts.transcript import ToolCall
from . import sse
from .asking import ToolSpeech
from .problems import Problem, anthropic_error
from .voices import REVISED, Ending

_STOP = {Finish.LENGTH: "max_tokens", Finish.TOOL_CALLS: "tool_use", Finish.REFUSED: "refusal"}
_STOP[Finish.CONTENT_FILTER] = "refusal"


class MessagesVoice:
    """Says an answer as a message, or as the events that build one.

    Args:
        run_id: the run's name, which the message's id holds.
        model: the model's name, as it was asked for.
        speech: what the interface calls each tool.
        input_tokens: what the beginning of a stream says that the request has; an estimate.
        shows_thinking: whether progress goes out as thinking; else as pings.
    """

    def __init__(
        self,
        run_id: str,
        model: str,
        speech: Mapping[str, ToolSpeech],
        input_tokens: int = 0,
        shows_thinking: bool = False,
    ) -> None:
        self._id = f"msg_{run_id}"
        self._model = model
        self._speech = speech
        self._input_tokens = input_tokens
        self._shows_thinking = shows_thinking
        self._blocks: list[dict[str, Any]] = []
        self._is_thinking = False
        self._ending: Ending | None = None

    def begin(self) -> bytes:
        """The empty message."""
        usage = {"input_tokens": self._input_tokens, "output_tokens": 0}
        return sse.event("message_start", {"type": "message_start", "message": self._message([], None, None, usage)})

    def progress(self, line: str) -> bytes:
        """A line of thinking, with an empty signature; a ping where thinking is not to be shown."""
        if not self._shows_thinking:
            return self.heartbeat()
        opened = b"" if self._is_thinking else self._open({"type": "thinking", "thinking": "", "signature": ""})
        self._is_thinking = True
        self._blocks[-1]["thinking"] += line
        return opened + self._delta({"type": "thinking_delta", "thinking": line})

    def open_text(self, *, revised: bool = False, commentary: bool = False) -> bytes:
        """A block of text, after a mark where it takes the place of one before it."""
        opened = self._end_thinking() + self._open({"type": "text", "text": ""})
        return opened + self._delta({"type": "text_delta", "text": REVISED}) if revised else opened

    def text(self, piece: str) -> bytes:
        """A piece of the block."""
        self._blocks[-1]["text"] += piece
        return self._delta({"type": "text_delta", "text": piece})

    def close_text(self) -> bytes:
        """The block's end."""
        return self._close()

    def refusal(self, text: str) -> bytes:
        """The words of the refusal, as a block of text; the reason of the end says what it is."""
        return self.open_text() + (self.text(text) if text else b"") + self.close_text()

    def calls(self, calls: Sequence[ToolCall]) -> bytes:
        """A block for each call."""
        frames = [self._end_thinking()]
        for call in calls:
            name = (self._speech.get(call.name) or ToolSpeech(call.name)).name
            frames.append(self._open({"type": "tool_use", "id": call.id, "name": name, "input": {}}))
            self._blocks[-1]["input"] = arguments_of(call.arguments)
            written = json.dumps(self._blocks[-1]["input"], ensure_ascii=False)
            frames += [self._delta({"type": "input_json_delta", "partial_json": written}), self._close()]
        return b"".join(frames)

    def end(self, ending: Ending) -> bytes:
        """The reason of the end with the usage, and the end of the stream."""
        self._ending = ending
        delta = {"stop_reason": self._stop_reason, "stop_sequence": ending.stop}
        event = {"type": "message_delta", "delta": delta, "usage": _usage(ending.usage), "trinity": ending.report}
        stopped = sse.event("message_stop", {"type": "message_stop"})
        return self._end_thinking() + sse.event("message_delta", event) + stopped

    def fail(self, problem: Problem) -> bytes:
        """An error in the stream."""
        return sse.event("error", anthropic_error(problem))

    def heartbeat(self) -> bytes:
        """A ping."""
        return sse.event("ping", {"type": "ping"})

    def body(self) -> dict[str, Any]:
        """The whole message; of texts that were revised, the last."""
        ending = self._ending
        assert ending is not None
        texts = [block for block in self._blocks if block["type"] == "text"]
        blocks = [block for block in self._blocks if block["type"] != "text" or block is texts[-1]]
        message = self._message(blocks, self._stop_reason, ending.stop, _usage(ending.usage))
        return {**message, "trinity": ending.report}

    @property
    def _stop_reason(self) -> str:
        assert self._ending is not None
        by_text = "stop_sequence" if self._ending.stop is not None else "end_turn"
        return _STOP.get(self._ending.finish, by_text)

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stop: str | None, usage: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _open(self, block: dict[str, Any]) -> bytes:
        self._blocks.append(dict(block))
        return sse.event(
            "content_block_start",
            {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": block},
        )

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        index = len(self._blocks) - 1
        return sse.event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})

    def _close(self) -> bytes:
        return sse.event("content_block_stop", {"type": "content_block_stop", "index": len(self._blocks) - 1})

    def _end_thinking(self) -> bytes:
        was_thinking, self._is_thinking = self._is_thinking, False
        return self._close() if was_thinking else b""


def arguments_of(text: str) -> dict[str, Any]:
    """A call's arguments as an object; what is none stands whole under ``arguments``, for the tool to refuse."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": text}


def _usage(usage: Usage) -> dict[str, int]:
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
