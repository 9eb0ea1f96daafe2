"""What a response repeats of its request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import fields

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES = ("auto", "concise", "detailed")


def settings_of(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What a response repeats of its request, each in the form that the interface requires, or at its default."""
    reasoning = body.get("reasoning")
    effort, summary = (
        (reasoning.get(key) for key in ("effort", "summary")) if isinstance(reasoning, dict) else (None, None)
    )
    text = body.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    choice = body.get("tool_choice")
    return {
        "model": model,
        "previous_response_id": body.get("previous_response_id"),
        "instructions": body.get("instructions"),
        "tools": [tool for tool in map(_told_tool, body.get("tools") or ()) if tool],
        "tool_choice": choice if choice in ("none", "auto", "required") or _names_function(choice) else "auto",
        "truncation": "disabled",
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "text": {"format": wanted if _is_schema(wanted) else {"type": "text"}},
        "top_p": _number(body.get("top_p"), 1.0),
        "presence_penalty": _number(body.get("presence_penalty"), 0.0),
        "frequency_penalty": _number(body.get("frequency_penalty"), 0.0),
        "top_logprobs": 0,
        "temperature": _number(body.get("temperature"), 1.0),
        "reasoning": {"effort": _one_of(_EFFORTS, effort), "summary": _one_of(_SUMMARIES, summary)},
        "max_output_tokens": fields.count(body, "max_output_tokens"),
        "max_tool_calls": None,
        "store": body.get("store") is not False,
        "background": False,
        "service_tier": "default",
        "metadata": fields.labels(body),
        "safety_identifier": _text(body.get("safety_identifier")),
        "prompt_cache_key": _text(body.get("prompt_cache_key")),
    }


def _told_tool(tool: Any) -> dict[str, Any] | None:
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        return None
    parameters = tool.get("parameters")
    return {
        "type": "function",
        "name": tool["name"],
        "description": _text(tool.get("description")),
        "parameters": parameters if isinstance(parameters, dict) else {},
        "strict": tool.get("strict") is True,
    }


def _names_function(choice: Any) -> bool:
    return isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str)


def _is_schema(wanted: Any) -> bool:
    return isinstance(wanted, dict) and wanted.get("type") in ("json_schema", "json_object")


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _one_of(names: tuple[str, ...], value: Any) -> str | None:
    """``value`` where it is one of the interface's words; of another nothing is repeated."""
    return next((name for name in names if name == value), None)
