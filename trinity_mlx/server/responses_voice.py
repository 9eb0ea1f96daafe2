"""Responses, spoken: events with their numbers, and the whole response with every field that the interface requires."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts.provider import Usage
from ..contracts.transcript import ToolCall
from . import sse
from .asking import ToolSpeech
from .call_ids import bare
from .chat_voice import custom_input
from .problems import Problem, response_error
from .voices import Ending

Item = dict[str, Any]


class ResponsesVoice:
    """Says an answer as a response, or as the events that build one.

    Args:
        run_id: the run's name, which the response's id holds.
        settings: what the response repeats of its request; see ``responses_settings``.
        speech: what the interface calls each tool.
        shows_progress: whether progress goes out as a reasoning item.
    """

    def __init__(
        self, run_id: str, settings: Mapping[str, Any], speech: Mapping[str, ToolSpeech], shows_progress: bool = True
    ) -> None:
        self.id = f"resp_{run_id}"
        self._run_id = run_id
        self._settings = settings
        self._speech = speech
        self._shows_progress = shows_progress
        self._created = int(time.time())
        self._number = 0
        self._items: list[Item] = []
        self._is_reasoning = False
        self._final: dict[str, Any] | None = None

    def begin(self) -> bytes:
        """The response, empty, created and at work."""
        created = self._event("response.created", response=self._response("in_progress"))
        return created + self.heartbeat()

    def progress(self, line: str) -> bytes:
        """A piece of a reasoning item's summary."""
        if not self._shows_progress:
            return b""
        opened = b"" if self._is_reasoning else self._open_reasoning()
        self._items[-1]["summary"][0]["text"] += line
        return opened + self._at("response.reasoning_summary_text.delta", summary_index=0, delta=line)

    def open_text(self, *, revised: bool = False, commentary: bool = False) -> bytes:
        """A message item with one part; a revised text is an item of its own."""
        closed = self._end_reasoning()
        phase = "commentary" if commentary else "final_answer"
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        added = self._add(
            {"type": "message", "role": "assistant", "status": "in_progress", "content": [], "phase": phase}, "msg"
        )
        self._items[-1]["content"] = [dict(part)]
        return closed + added + self._at("response.content_part.added", content_index=0, part=part)

    def text(self, piece: str) -> bytes:
        """A piece of the part."""
        self._items[-1]["content"][0]["text"] += piece
        return self._at("response.output_text.delta", content_index=0, delta=piece, logprobs=[])

    def close_text(self) -> bytes:
        """The part and its item are whole."""
        part = self._items[-1]["content"][0]
        done = self._at("response.output_text.done", content_index=0, text=part["text"], logprobs=[])
        return done + self._at("response.content_part.done", content_index=0, part=part) + self._done()

    def refusal(self, text: str) -> bytes:
        """A message item whose part is a refusal."""
        closed = self._end_reasoning()
        item = {"type": "message", "role": "assistant", "status": "in_progress", "content": [], "phase": "final_answer"}
        added = self._add(item, "msg")
        part = {"type": "refusal", "refusal": text}
        self._items[-1]["content"] = [part]
        frames = [
            self._at("response.content_part.added", content_index=0, part={"type": "refusal", "refusal": ""}),
            self._at("response.refusal.delta", content_index=0, delta=text),
            self._at("response.refusal.done", content_index=0, refusal=text),
            self._at("response.content_part.done", content_index=0, part=part),
        ]
        return closed + added + b"".join(frames) + self._done()

    def calls(self, calls: Sequence[ToolCall]) -> bytes:
        """An item for each call."""
        return self._end_reasoning() + b"".join(map(self._call, calls))

    def end(self, ending: Ending) -> bytes:
        """The whole response."""
        closed = self._end_reasoning()
        outcome = {"usage": _usage(ending.usage), "completed_at": int(time.time()), "trinity": ending.report}
        self._final = self._response("completed", **outcome)
        return closed + self._event("response.completed", response=self._final)

    def fail(self, problem: Problem) -> bytes:
        """The response, failed: an ``error`` event alone would be passed over."""
        failed = self._response("failed", error=response_error(problem))
        return self._end_reasoning() + self._event("response.failed", response=failed)

    def heartbeat(self) -> bytes:
        """Still in progress."""
        return self._event("response.in_progress", response=self._response("in_progress"))

    def body(self) -> dict[str, Any]:
        """The whole response; of texts that were revised, the last."""
        assert self._final is not None
        return {**self._final, "output": final_items(self._items)}

    def _call(self, call: ToolCall) -> bytes:
        said = self._speech.get(call.name) or ToolSpeech(call.name)
        place = {} if said.namespace is None else {"namespace": said.namespace}
        head = {"status": "in_progress", "call_id": call.id, "name": said.name, **place}
        identity = f"fc_{bare(call.id)}"
        if said.is_custom:
            text, field, event = custom_input(call.arguments), "input", "response.custom_tool_call_input"
            added = self._add({"type": "custom_tool_call", **head, "input": ""}, "fc", identity)
        else:
            text, field, event = call.arguments, "arguments", "response.function_call_arguments"
            added = self._add({"type": "function_call", **head, "arguments": ""}, "fc", identity)
        self._items[-1][field] = text
        name = {} if said.is_custom else {"name": said.name}
        return (
            added
            + self._at(f"{event}.delta", delta=text)
            + self._at(f"{event}.done", **{field: text}, **name)
            + self._done()
        )

    def _open_reasoning(self) -> bytes:
        self._is_reasoning = True
        added = self._add({"type": "reasoning", "summary": [], "encrypted_content": None}, "rs")
        part = {"type": "summary_text", "text": ""}
        self._items[-1]["summary"] = [dict(part)]
        return added + self._at("response.reasoning_summary_part.added", summary_index=0, part=part)

    def _end_reasoning(self) -> bytes:
        if not self._is_reasoning:
            return b""
        self._is_reasoning = False
        part = self._items[-1]["summary"][0]
        done = self._at("response.reasoning_summary_text.done", summary_index=0, text=part["text"])
        return done + self._at("response.reasoning_summary_part.done", summary_index=0, part=part) + self._done()

    def _add(self, item: Item, prefix: str, identity: str | None = None) -> bytes:
        """A further item; each has its own place, without gaps."""
        added = {"id": identity or f"{prefix}_{self._run_id}_{len(self._items)}", **item}
        self._items.append(dict(added))
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=added)

    def _done(self) -> bytes:
        item = self._items[-1]
        if "status" in item:
            item["status"] = "completed"
        return self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _at(self, name: str, /, **values: Any) -> bytes:
        """An event about the latest item."""
        return self._event(name, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **values)

    def _event(self, name: str, /, **values: Any) -> bytes:
        frame = sse.event(name, {"type": name, "sequence_number": self._number, **values})
        self._number += 1
        return frame

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": list(self._items) if status != "in_progress" else [],
            "usage": None,
            **self._settings,
            **fields,
        }


def final_items(items: Sequence[Item]) -> list[Item]:
    """Items without texts that a later one has taken the place of."""
    answers = [item for item in items if item["type"] == "message" and item.get("phase") == "final_answer"]
    return [item for item in items if item not in answers[:-1]]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
