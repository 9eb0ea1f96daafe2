"""What each role is told, and the messages of a call: the role's instruction and the conversation so far.

Nothing that is added here is ever stored in a transcript, and the router never reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from ..contracts.routing import Role
from ..contracts.transcript import Message


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
    replies: Sequence[tuple[Role, str]],
    form: CallForm = CallForm.DIALOGUE,
    ask_suggestions: bool = True,
) -> tuple[Message, ...]:
    """The messages of one call.

    Args:
        role: the role of the agent that is called.
        task: the conversation that the run was given.
        replies: role and text of each reply since, oldest first.
        form: how they are laid out.
        ask_suggestions: see :func:`instruction`.
    """
    told = instruction(role, ask_suggestions)
    if form is CallForm.PLAIN:
        return (Message("system", told), *task, *(Message("assistant", text) for _, text in replies))
    system = "\n\n".join([told, *(message.text for message in task if message.role == "system")])
    dialogue = [message for message in task if message.role != "system"]
    for speaker, text in replies:
        dialogue += [*_prompt(dialogue, speaker), Message("assistant", text)]
    return (Message("system", system), *dialogue, *_prompt(dialogue, role))


def _prompt(dialogue: Sequence[Message], role: Role) -> list[Message]:
    """The request for ``role``, unless a user has the last word."""
    return [] if dialogue and dialogue[-1].role == "user" else [Message("user", request(role))]
