"""What each role is told, and the messages of a call: the role's instruction and the conversation so far.

Nothing that is added here is ever stored in a transcript, and the router never reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import islice

from ..contracts.parts import Image, ToolResult
from ..contracts.routing import Role
from ..contracts.transcript import Message

LONGEST_HEAD = 1500
"""Characters of a tool's result, or of a call's arguments, that a Thinker or a Verifier is shown from its beginning."""
LONGEST_TAIL = 500
"""The same from its end."""
_SYSTEM_ROLES = ("system", "developer")


class CallForm(StrEnum):
    """How a conversation is laid out for an agent."""

    DIALOGUE = "dialogue"
    """One system message in front: the instruction, then the text of the conversation's own system messages. Each reply
    of an agent that does not follow a user message is preceded by a short request for its role, and the last message is
    always a user's. Several providers refuse, or continue, a conversation that ends with an assistant's message, and
    some chat templates refuse two assistant messages in a row."""
    PLAIN = "plain"
    """The instruction as a system message, then all messages as they are: the published form."""


_INSTRUCTIONS = {
    Role.WORKER: (
        "You are the Worker of a small team that solves a task over several turns. Take the next concrete step towards "
        "the result: write the code, carry out the calculation or the derivation, compose the text. Make use of the "
        "plans that have been made, and deal with every fault that a check has found. Give a whole answer wherever you "
        "can, because your latest answer is what the user receives."
    ),
    Role.THINKER: (
        "You are the Thinker of a small team that solves a task over several turns. Look at where the conversation "
        "stands and give direction: split the task into parts, lay out a plan, or name what is wrong or missing. Leave "
        "the final answer to others, unless what has been said already settles it."
    ),
    Role.VERIFIER: (
        "You are the Verifier of a small team that solves a task over several turns. Check the latest answer against "
        "the task: whether it is correct, whether it is complete, and whether it is what was asked for. Begin your "
        "reply with exactly one word, ACCEPT or REVISE, and put nothing before it. After REVISE, say briefly what is "
        "wrong and what has to change. Do not write the answer yourself."
    ),
}
_TAGS = (
    "\n\nEnd your reply with these two tags, both of them:\n"
    "<suggestion>one sentence that says what should be done next</suggestion>\n"
    "<suggested_role>solver</suggested_role>\n"
    "Put solver there if somebody should work on the answer next, or verifier if the latest answer should be checked."
)
_REQUESTS = {
    Role.WORKER: "Worker, take the next step and give your answer.",
    Role.THINKER: "Thinker, say how to go on from here.",
    Role.VERIFIER: "Verifier, check the latest answer. Begin with ACCEPT or REVISE.",
}


def instruction(role: Role, ask_suggestions: bool = True) -> str:
    """What an agent in ``role`` is told; ``ask_suggestions`` has the Thinker asked for its two tags."""
    return _INSTRUCTIONS[role] + (_TAGS if role is Role.THINKER and ask_suggestions else "")


def request(role: Role) -> str:
    """The user message that asks for a reply in ``role`` where the conversation itself asks for none."""
    return _REQUESTS[role]


def call_messages(
    role: Role,
    task: Sequence[Message],
    turns: Sequence[tuple[Role, Sequence[Message]]],
    form: CallForm = CallForm.DIALOGUE,
    ask_suggestions: bool = True,
) -> tuple[Message, ...]:
    """The messages of one call.

    Only a Worker sees calls of tools and their results as such; to others they are told as text.

    Args:
        role: the role of the agent that is called.
        task: the conversation that the run was given.
        turns: the role and the messages of each turn since, oldest first; the last may be the one under way.
        form: how they are laid out.
        ask_suggestions: see :func:`instruction`.
    """
    instructions = instruction(role, ask_suggestions)
    if role is not Role.WORKER:
        shown = messages_without_tools([*task, *(message for _, messages in turns for message in messages)])
        replies = shown[len(task) :]
        turns = _regrouped(turns, replies)
        task = shown[: len(task)]
    if form is CallForm.PLAIN:
        return (Message("system", instructions), *task, *(message for _, messages in turns for message in messages))
    system = "\n\n".join([instructions, *(message.text for message in task if message.role in _SYSTEM_ROLES)])
    dialogue = [message for message in task if message.role not in _SYSTEM_ROLES]
    for speaker, messages in turns:
        dialogue += [*(_prompt(dialogue, speaker) if messages else ()), *messages]
    return (Message("system", system), *dialogue, *_prompt(dialogue, role))


def messages_without_tools(messages: Sequence[Message]) -> list[Message]:
    """``messages``, each with its calls of tools and results told as text, long ones by their beginning and end."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_without_tools(message, names) for message in messages]


def _without_tools(message: Message, names: Mapping[str, str]) -> Message:
    if message.role == "tool":
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        return Message("user", "\n\n".join(_result_text(result, names) for result in results))
    if not message.tool_calls:
        return message
    calls = [f"[calls the tool {call.name} with {shortened(call.arguments)}]" for call in message.tool_calls]
    return Message(message.role, "\n\n".join(text for text in (message.text, *calls) if text))


def _result_text(result: ToolResult, names: Mapping[str, str]) -> str:
    name = names.get(result.call_id, "that was called")
    verb = "failed with" if result.is_error else "gave"
    images = sum(isinstance(part, Image) for part in result.parts)
    beside = f" and {images} {'image' if images == 1 else 'images'}" if images else ""
    return f"[the tool {name} {verb}{beside}]\n{shortened(result.text)}"


def shortened(text: str) -> str:
    """``text``, or its beginning and its end with a word on what lies between."""
    left_out = len(text) - LONGEST_HEAD - LONGEST_TAIL
    if left_out <= 0:
        return text
    return f"{text[:LONGEST_HEAD]}\n[{left_out} characters left out]\n{text[-LONGEST_TAIL:]}"


def _regrouped(
    turns: Sequence[tuple[Role, Sequence[Message]]], messages: Sequence[Message]
) -> list[tuple[Role, Sequence[Message]]]:
    """``messages`` in the place of those of ``turns``, one for one."""
    remaining = iter(messages)
    return [(speaker, list(islice(remaining, len(said)))) for speaker, said in turns]


def _prompt(dialogue: Sequence[Message], role: Role) -> list[Message]:
    """The request for ``role``, unless a user has the last word, or the tools that it called."""
    return [] if dialogue and dialogue[-1].role in ("user", "tool") else [Message("user", request(role))]
