"""Many conversations at once: what begins alike is read once, and the decisions come in the order of the questions."""

from typing import Any

from trinity_mlx import load_router

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is three eighths of 560?"}],
    [{"role": "user", "content": "What is three eighths of 560?"}, {"role": "assistant", "content": "It is 210."}],
    [{"role": "user", "content": [{"type": "text", "text": "Translate 'good morning' into French."}]}],
    [
        {"role": "user", "content": "How warm is it in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "warmth", "arguments": '{"city": "Paris"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "21 degrees"},
    ],
]

with load_router("nano") as router:
    for conversation, decision in zip(CONVERSATIONS, router.route_many(CONVERSATIONS), strict=True):
        print(f"{conversation[-1]['role']:>9} spoke last -> {decision.label} as {decision.role.label}")
