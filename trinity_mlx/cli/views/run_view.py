"""A run as it happens: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.spinner import Spinner
from rich.text import Text

from ...contracts.events import (
    Event,
    Fallback,
    ProviderCalled,
    ProviderFailed,
    Routed,
    RunCompleted,
    RunFailed,
    RunStarted,
    TurnCompleted,
)
from ...contracts.provider import Usage
from ...contracts.routing import Margins, Role
from ..output import console, note

_LINES = 12
"""How many of the latest lines are shown while text streams."""
_COLOURS = {Role.WORKER: "green", Role.THINKER: "cyan", Role.VERIFIER: "magenta"}
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """``text`` without the control characters by which a model's reply could steer the terminal."""
    return _STEERING.sub("", text)


class PlainView:
    """One line on the error stream for each turn; standard output is left to the answer."""

    on_text = None
    """Nobody watches the text as it streams: the whole of it comes with the turn."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def emit(self, event: Event) -> None:
        """Say what has happened."""
        if isinstance(event, RunStarted):
            self._names = _names(event)
        elif isinstance(event, RunCompleted):
            note(f"{_checked(event)} in {_totals(event)}")
        elif isinstance(event, RunFailed) and event.answer:
            note(f"stopped after {_totals(event)}; the best answer so far is given")
        elif line := _line(event, self._names):
            note(Text.from_markup(line).plain)

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LiveView:
    """Finished turns and the answer scroll away above; the turn under way shows its text as it streams."""

    def __init__(self) -> None:
        self._console: Console = console()
        self._spinner = Spinner("dots")
        self._begun = time.monotonic()
        self._names: dict[int, str] = {}
        self._routed: Routed | None = None
        self._heading = ""
        self._text = ""
        self._usage = Usage(0, 0)
        self._cost_usd: float | None = 0.0
        self._ended = False
        self._live = Live(console=self._console, get_renderable=self._under_way, refresh_per_second=12, transient=True)

    def emit(self, event: Event) -> None:
        """Show what has happened."""
        if isinstance(event, RunStarted):
            self._names = _names(event)
        elif isinstance(event, Routed):
            self._routed = event
        elif isinstance(event, ProviderCalled):
            self._heading, self._text = _heading(event, self._routed), ""
        elif isinstance(event, TurnCompleted):
            self._finish(event)
        elif isinstance(event, RunCompleted | RunFailed):
            self._end(event)
        elif line := _line(event, self._names):
            self._console.print(line)
        self._live.refresh()

    def on_text(self, turn: int, text: str) -> None:
        """Show more of the reply."""
        self._text += text

    def close(self) -> None:
        """The view closes with its context."""

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._live.__exit__(kind, error, trace)

    def _under_way(self) -> RenderableType:
        if self._ended:
            return Text()
        seconds = f"{time.monotonic() - self._begun:.0f} s"
        if not self._heading:
            self._spinner.update(text=Text(f"routing, {seconds}", style="dim"))
            return self._spinner
        self._spinner.update(
            text=Text(f"{seconds}, {_tokens(self._usage)}, {_cost(self._cost_usd)} so far", style="dim")
        )
        return Group(Text.from_markup(self._heading), self._tail(), self._spinner)

    def _tail(self) -> RenderableType:
        """The latest lines of the text, as many as the window has room for."""
        rows = max(1, min(_LINES, self._console.height - 4))
        latest = shown(self._text)[-rows * self._console.width :]
        lines = Text(latest).wrap(self._console, max(1, self._console.width - 2))
        return Padding(Text("\n").join(lines[-rows:]), (0, 0, 0, 2))

    def _finish(self, event: TurnCompleted) -> None:
        turn = Group(
            Text.from_markup(self._heading),
            Padding(Text(shown(event.reply.text).strip()), (0, 0, 0, 2)),
            Padding(Text(_facts(event), style="dim"), (0, 0, 1, 2)),
        )
        self._usage = self._usage + event.usage if event.usage else self._usage
        known = self._cost_usd is not None and event.cost_usd is not None
        self._cost_usd = (self._cost_usd or 0.0) + (event.cost_usd or 0.0) if known else None
        self._heading = self._text = ""
        self._live.refresh()
        self._console.print(turn)

    def _end(self, event: RunCompleted | RunFailed) -> None:
        self._ended = True
        self._live.refresh()
        if event.answer:
            self._console.print(_title(event))
            self._console.print(Padding(Text(shown(event.answer.text).strip(), style="bold"), (0, 0, 0, 2)))
        self._console.print(f"[dim]{_totals(event)}[/]")


def _names(event: RunStarted) -> dict[int, str]:
    return {agent["slot"]: agent["name"] for agent in event.agents}


def _heading(call: ProviderCalled, routed: Routed | None) -> str:
    """Whose turn it is, and how clear that was, in a line of markup."""
    again = f" [yellow]attempt {call.attempt}[/]" if call.attempt > 1 else ""
    clarity = f"  [dim]{_clarity(routed)}[/]" if routed else ""
    return f"turn {call.turn}  {_role(call.role)}  [bold]{escape(call.agent)}[/]{again}{clarity}"


def _line(event: Event, names: dict[int, str]) -> str:
    """One event in a line of markup; empty where it is nothing for people."""
    if isinstance(event, ProviderFailed):
        again = f"; again in {event.retry_in_s:.1f} s" if event.retry_in_s is not None else ""
        what = escape(shown(event.message))
        return f"[yellow]turn {event.turn}: attempt {event.attempt} failed: {what}{again}[/]"
    if isinstance(event, Fallback):
        failed, taker = (escape(names.get(slot, f"slot {slot}")) for slot in (event.from_slot, event.to_slot))
        return f"[yellow]turn {event.turn}: {taker} takes it, because {failed} failed[/]"
    if isinstance(event, TurnCompleted):
        return f"turn {event.turn}: {escape(event.agent)} as {_role(event.role)}, {escape(_facts(event))}"
    return ""


def _role(role: Role) -> str:
    return f"[bold {_COLOURS[role]}]{role.label}[/]"


def _clarity(routed: Routed) -> str:
    """The margins, and the rules that changed the router's choice."""
    changed = [rule.replace("_", " ") for rule in routed.adjustments]
    return ", ".join([_margins(routed.margins), *changed]) if routed.margins else ", ".join(changed)


def _margins(margins: Margins) -> str:
    agent, role = ("none" if value is None else f"{value:.2f}" for value in (margins.agent, margins.role))
    return f"margins: agent {agent}, role {role}"


def _facts(event: TurnCompleted) -> str:
    facts = [event.model, f"{event.latency_ms:.0f} ms", _tokens(event.usage), _cost(event.cost_usd)]
    if event.verdict:
        facts.append(f"verdict: {event.verdict}")
    if event.suggested_role is not None:
        facts.append(f"suggests {event.suggested_role.label} next")
    if event.finish != "stop":
        facts.append(f"ended by {event.finish}")
    return shown(", ".join(fact for fact in facts if fact))


def _title(event: RunCompleted | RunFailed) -> str:
    return f"answer [dim]({_checked(event)})[/]" if isinstance(event, RunCompleted) else "best answer so far"


def _checked(event: RunCompleted) -> str:
    return "accepted by the Verifier" if event.status == "accepted" else "not accepted: the turns ran out"


def _totals(event: RunCompleted | RunFailed) -> str:
    turns = f"{event.turns} turn{'' if event.turns == 1 else 's'}"
    return f"{turns}, {event.wall_ms / 1000:.2f} s, {_tokens(event.usage)}, {_cost(event.cost_usd)}"


def _tokens(usage: Usage | None) -> str:
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out" if usage else "tokens not counted"


def _cost(cost_usd: float | None) -> str:
    """US dollars without noughts at the end: single calls cost small fractions of a cent."""
    return "cost unknown" if cost_usd is None else f"{cost_usd:.6f}".rstrip("0").rstrip(".") + " USD"
