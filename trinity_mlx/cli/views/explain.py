"""A decision for people: the answer in three lines, its logits as a table, or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ...contracts.routing import Guard, GuardRule, Role, RouteDecision
from ..output import console, note

if TYPE_CHECKING:
    from ...evaluation.results import Floors
    from ...routing.router import RouterIdentity

_BAR = 32


def print_decision(decision: RouteDecision, identity: RouterIdentity) -> None:
    """Agent and role with their margins, and what it took; ties are named on the error stream."""
    table = Table.grid(padding=(0, 2))
    table.add_row("agent", Text(f"{decision.slot}  {decision.label}", style="bold"), _margin(decision.margins.agent))
    table.add_row(
        "role", Text(f"{int(decision.role)}  {decision.role.label}", style="bold"), _margin(decision.margins.role)
    )
    out = console()
    out.print(table)
    reused = f" ({decision.reused_tokens} reused)" if decision.reused_tokens else ""
    out.print(
        f"{decision.token_count} tokens{reused} in {decision.timings.route:.1f} ms, loaded in "
        f"{decision.timings.load:.0f} ms: {decision.artifact.name} on {decision.profile} "
        f"({identity.device}, {identity.dtype}), route {decision.route_hash[:12]}",
        style="dim",
        markup=False,
    )
    if decision.gap:
        out.print(f"read in part: tokens {decision.gap.start} to {decision.gap.stop} were left out", style="dim")
    if decision.choice.guarded and identity.guard:
        out.print(Text(_guarded(decision, identity.guard, identity.labels), style="yellow"))
    for split, tied in (("slots", decision.choice.tied_slots), ("roles", decision.choice.tied_roles)):
        if tied:
            names = ", ".join(str(int(index)) for index in tied)
            note(f"warning: {split} {names} tie for the largest logit; the lowest was taken by argmax")


def _guarded(decision: RouteDecision, guard: Guard, labels: Sequence[str]) -> str:
    """Why the artifact's guard took the decision, and what the router itself would have chosen."""
    own = decision.ranking[0]
    reasons = {
        GuardRule.MARGIN: f"no agent leads by {_limit(guard.margin)}",
        GuardRule.DISTANCE: f"nothing like this was trained on (distance {_limit(decision.logits.distance)}, "
        f"limit {_limit(guard.distance)})",
    }
    rule = decision.choice.guarded
    reason = reasons[rule] if rule else ""
    return f"the router's guard chose the agent: {reason}; the largest logit has {own} {labels[own]}"


def _limit(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_logits(decision: RouteDecision, identity: RouterIdentity) -> None:
    """The logits of both splits as a table, with probabilities where the selection has them."""
    table = Table(box=None, header_style="dim")
    for heading in ("split", "index", "label", "logit", "probability"):
        table.add_column(heading, justify="right" if heading in ("index", "logit", "probability") else "left")
    shares = decision.choice.probabilities
    for split, labels, values, odds in (
        ("agent", identity.labels, decision.logits.agent, shares.agent if shares else None),
        ("role", _role_labels(), decision.logits.role, shares.role if shares else None),
    ):
        for index, (label, value) in enumerate(zip(labels, values, strict=True)):
            table.add_row(split, str(index), Text(label), f"{value:.6f}", f"{odds[index]:.4f}" if odds else "-")
    console().print(table)


def print_picture(decision: RouteDecision, identity: RouterIdentity, floors: Floors) -> None:
    """A bar for every logit, the margin of each split, and how it stands to the lane's floor."""
    out = console()
    allowed = set(decision.ranking)
    out.print()
    out.print(_bars("agent", identity.labels, decision.logits.agent, decision.slot, allowed))
    out.print(_verdict(decision.margins.agent, floors.agent, floors.agent_source))
    out.print()
    out.print(_bars("role", _role_labels(), decision.logits.role, int(decision.role), set(range(len(Role)))))
    out.print(_verdict(decision.margins.role, floors.role, floors.role_source))


def _bars(title: str, labels: Sequence[str], values: Sequence[float], chosen: int, allowed: set[int]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for heading in ("", title, "", "logit"):
        table.add_column(heading, justify="right" if heading == "logit" else "left")
    low, high = min(values), max(values)
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        filled = round(_BAR * (value - low) / (high - low)) if high > low else 0
        style = "bold green" if index == chosen else "" if index in allowed else "dim strike"
        mark = ">" if index == chosen else " "
        table.add_row(mark, Text(f"{index} {label}", style=style), "█" * filled or "▏", f"{value:+.3f}")
    return table


def _verdict(margin: float | None, floor: float | None, source: str) -> Text:
    if margin is None:
        return Text("  margin: none, as only one candidate is allowed", style="dim")
    if floor is None:
        return Text(f"  margin {margin:.3f}; no floor is known for this artifact on this profile", style="dim")
    holds = margin >= floor
    return Text(
        f"  margin {margin:.3f} {'at or above' if holds else 'BELOW'} the floor {floor:g} ({source})",
        style="green" if holds else "bold red",
    )


def _role_labels() -> list[str]:
    return [role.label for role in Role]


def _margin(margin: float | None) -> str:
    return "only candidate" if margin is None else f"margin {margin:.3f}"
