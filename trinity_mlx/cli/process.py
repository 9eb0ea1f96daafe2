"""The process around a command: whatever the streams, the locale or the moment of Ctrl-C, one line and an exit code.

It imports next to nothing, since it stands before everything that takes time to import.
"""

from __future__ import annotations

import atexit
import codecs
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EBADF
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..contracts.errors import bounded

if TYPE_CHECKING:
    from threading import Timer

MACHINE = 7
"""Exit code of what this machine, or a defect, did to the command: no room, no memory, a folder that vanished."""
CANCELLED = 130
"""Exit code after Ctrl-C, as shells count it."""
PIPE_CLOSED = 141
"""Exit code where the reader of standard output went away, as shells count it."""
DEBUG = "TRINITY_DEBUG"
"""Set to anything, this variable has the traceback of every failure shown."""
_AGAIN_S = 0.05
"""Seconds after which a Ctrl-C that was lost is asked for again."""
_NEAREST = {"█": "#", "▏": "|", "…": "...", "·": "-", "•": "*", "→": "->", "×": "x", "—": "-", "–": "-"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)}
_ending: list[int] = []
"""The exit code, once the command is over."""


class Failure(NamedTuple):
    """What the user is told: what is wrong, what to try next (empty where nobody knows), and the exit code."""

    text: str
    advice: str
    code: int


@contextmanager
def starting() -> Iterator[None]:
    """Around all that is not yet, or no longer, inside ``outcome``: Ctrl-C ends the process in order there, too."""
    try:
        yield
    except KeyboardInterrupt:
        say("cancelled")
        last_word(CANCELLED)


def outcome(work: Callable[[], int], explain: Callable[[Exception], Failure | None]) -> int:
    """The exit code of ``work``, after one line on the error stream where it failed, or two with advice.

    Args:
        work: the command; gives an exit code, or raises.
        explain: what to tell about an error; None for one that it does not know.
    """
    try:
        prepare_streams()
        with _no_cancellation_lost():
            return _carried_out(work, explain)
    except KeyboardInterrupt:
        say("cancelled")
        return CANCELLED


@contextmanager
def _no_cancellation_lost() -> Iterator[None]:
    """Ctrl-C inside code in C that cannot raise it is asked for again, and not reported as an exception ignored."""
    before, asked, is_noticing = sys.unraisablehook, [], False

    def report(unraisable: Any) -> None:
        nonlocal is_noticing
        if not is_cancellation(unraisable.exc_value):
            before(unraisable)
            return
        is_noticing = True  # what is raised in here would be lost like what is noticed
        try:
            asked.append(_asked_again(lambda: is_noticing))
        finally:
            is_noticing = False

    sys.unraisablehook = report
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in asked:
            timer.cancel()


def _asked_again(is_noticing: Callable[[], bool]) -> Timer:
    """Ctrl-C for the main thread a moment from now, when whatever swallowed it, and what noticed that, has returned."""
    from threading import Timer, main_thread

    def ask() -> None:
        while is_noticing():
            time.sleep(_AGAIN_S)
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)

    timer = Timer(_AGAIN_S, ask)
    timer.daemon = True
    timer.start()
    return timer


def _carried_out(work: Callable[[], int], explain: Callable[[Exception], Failure | None]) -> int:
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _abandon(sys.stdout)
        return PIPE_CLOSED
    except Exception as error:
        if is_cancellation(error):
            raise KeyboardInterrupt from error
        if os.environ.get(DEBUG):
            traceback.print_exc()
        failure = explain(error) or _unforeseen(error)
        tell(failure)
        return _flushed(failure.code)


def tell(failure: Failure) -> None:
    """The failure on the error stream: what is wrong in one line, and what to try in another."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    say(one_line(failure.text), "\x1b[1;31merror:\x1b[0m " if coloured else "error: ")
    if failure.advice:
        say(one_line(failure.advice), "try: ")


def _unforeseen(error: Exception) -> Failure:
    """For an error that is none of ours: the machine's, or a defect."""
    if isinstance(error, MemoryError):
        return Failure("this machine has too little memory for it", "", MACHINE)
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return Failure(f"{place}{error.strerror or error}", "", MACHINE)
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return Failure(what, f"{DEBUG}=1 shows where that happened", MACHINE)


def is_cancellation(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind ``error``: code in C turns it into other errors at times, pydantic's into mere words."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt) or (
            type(error).__name__ == "SchemaError" and str(error).endswith("KeyboardInterrupt: ")
        ):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def say(text: str, head: str = "") -> None:
    """Lines on the error stream, behind ``head``; nothing where there is nobody to read them.

    Control characters, by which a text could steer the terminal, are spelled out.
    """
    try:
        if sys.stderr is not None:  # print would take the output then
            print(head + text.translate(_CONTROLS), file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        _abandon(sys.stderr)


def one_line(text: str) -> str:
    """``text`` without its ends of lines, bounded."""
    return bounded(" ".join(text.split()))


def last_word(code: int) -> NoReturn:
    """End the process with ``code``; from here on Ctrl-C does so at once, without what the interpreter says of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _ending.append(code)
    sys.exit(code)


@atexit.register
def _vanish() -> None:
    """End at once, after all other handlers of exit, since this module is there first.

    Taking a framework apart object by object would take a tenth of a second, and leave nothing that the system does
    not take back anyway.
    """
    if _ending:
        os._exit(_flushed(_ending[-1]))


def is_encodable(text: str) -> bool:
    """Whether ``text`` holds characters alone, and not the bytes of no encoding that a shell can pass."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def prepare_streams() -> None:
    """Streams that every command can rely on.

    A standard stream that was closed before the start becomes one that fails when it is used (the error stream: one
    that swallows), and its number is taken, so that no file of ours is opened under it. Characters that an encoding
    lacks are written as their nearest sign, or spelled out.
    """
    codecs.register_error("trinity", _nearest)
    _take_numbers()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Closed("standard input is closed")), "utf-8")
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed("standard output is closed")), "utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="trinity")


class _Closed(io.RawIOBase):
    """A stream that says that it is closed as soon as it is used, once."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._told = False

    def readable(self) -> bool:
        """It looks as if it could be read."""
        return True

    def writable(self) -> bool:
        """It looks as if it could be written to."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fails."""
        raise OSError(EBADF, self._reason)

    def write(self, data: Any, /) -> int:
        """Fails; what the interpreter flushes at its end goes nowhere."""
        if self._told:
            return len(data)
        self._told = True
        raise OSError(EBADF, self._reason)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_NEAREST.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text), error.end


def _take_numbers() -> None:
    """Point those of the numbers 0, 1 and 2 that are free at nothing."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _point(number)


def _flushed(code: int) -> int:
    """``code``, once what has been printed is out, or has been given up."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        _abandon(sys.stdout)
    return code


def _abandon(stream: Any) -> None:
    """Let what still lies in ``stream`` go nowhere, so that the interpreter does not fail on it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        _point(stream.fileno())


def _point(number: int) -> None:
    """Have the file number ``number`` mean nothing."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)
