"""A process that routes chunks for another: ``python -m trinity_mlx.batches.worker``, frames in and frames out.

The first frame says how to load the router and what is asked. It ends when its input does, which is also what it sees
when whoever started it is killed; Ctrl-C is left to that one, who starts it with that signal blocked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from ..contracts.routing import Selection, SelectionMode
from ..routing.recipe import Recipe
from .engines.here import Here
from .frames import chunk_of, error_frame, receive, routed_frame, send
from .records import Question


def main() -> None:
    """Serve standard input and output."""
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # whatever a framework prints is no frame
        serve(sys.stdin.buffer, replies)


def serve(asks: BinaryIO, replies: BinaryIO) -> None:
    """Answer the chunks in ``asks``; what fails is told, and ends it."""
    opening = receive(asks)
    if opening is None:
        return
    try:
        with Recipe.of(opening[0]["recipe"]).load() as router:
            send(replies, {"ready": True})
            question = question_of(opening[0]["question"])
            while frame := receive(asks):
                send(replies, *routed_frame(Here(router).answer(chunk_of(frame), question)))
    except BrokenPipeError:
        return
    except Exception as error:
        send(replies, *error_frame(error))


def question_of(values: Mapping[str, Any]) -> Question:
    """From the plain values of a question."""
    how = values["selection"]
    modes = SelectionMode(how["agent"]), SelectionMode(how["role"])
    selection = Selection(*modes, how["temperature"], values["seed"], values["guarded"])
    slots = values["allow_slots"]
    return Question(selection, None if slots is None else tuple(slots), values["timings"])


if __name__ == "__main__":
    main()
