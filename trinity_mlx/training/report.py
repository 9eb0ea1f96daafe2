"""Pages and cards: a headroom, or a training with its curves, as one self-contained HTML page without script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from ..files.pages import render_page
from .headroom import BEST_SINGLE, Headroom, Method, summary_rows
from .summary import Summary
from .trainer import Generation, Progress

_FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 640, 220


def render_headroom(headroom: Headroom) -> str:
    """The page of a headroom."""
    return _render(headroom=headroom, summary=None, curves=[], made={})


def render_training(headroom: Headroom, summary: Summary, progress: Progress, made: Mapping[str, str]) -> str:
    """The page of a training."""
    return _render(headroom=headroom, summary=summary, curves=list(_curves(progress.history)), made=made)


def training_card(name: str, headroom: Headroom, summary: Summary, made: Mapping[str, str]) -> str:
    """The bundle's card: what it is, what it came to, and how it was made."""
    return "\n".join(_card_lines(name, headroom, summary, made)) + "\n"


def bar(method: Method, headroom: Headroom) -> Markup:
    """A method's score with its interval, drawn on the common scale of all methods."""
    lows = [each.estimate.low for each in headroom.methods]
    highs = [each.estimate.high for each in headroom.methods]
    low, high = min(lows), max(highs)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(4 + 192 * (value - low) / span, 2)

    each, single = method.estimate, headroom.method(BEST_SINGLE).estimate.mean
    return Markup(
        '<svg viewBox="0 0 200 14" width="200" height="14" role="img" aria-label="{label}">'
        '<line class="mark" x1="{single}" x2="{single}" y1="0" y2="14"/>'
        '<line class="range" x1="{low}" x2="{high}" y1="7" y2="7"/>'
        '<circle class="dot" cx="{mean}" cy="7" r="3.5"/></svg>'
    ).format(
        label=f"{each.mean:.3f}, {each.low:.3f} to {each.high:.3f}",
        single=at(single),
        low=at(each.low),
        high=at(each.high),
        mean=at(each.mean),
    )


def polyline(values: Sequence[float], low: float, high: float) -> str:
    """``values`` as points of a line that fills the plot."""
    span = (high - low) or 1.0
    width = max(len(values) - 1, 1)
    points = ((WIDTH * index / width, HEIGHT * (1 - (value - low) / span)) for index, value in enumerate(values))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _render(**values: object) -> str:
    return render_page(_FOLDER, {"bar": bar, "width": WIDTH, "height": HEIGHT, **values})


def _curves(history: Sequence[Generation]) -> Iterator[dict[str, object]]:
    """One plot for each stage: the score on val, and the best so far."""
    for stage in dict.fromkeys(each.stage for each in history):
        points = [each for each in history if each.stage == stage]
        values = [each.val for each in points] + [each.best for each in points]
        low, high = min(values), max(values)
        yield {
            "stage": stage,
            "generations": len(points),
            "low": low,
            "high": high,
            "val": polyline([each.val for each in points], low, high),
            "best": polyline([each.best for each in points], low, high),
        }


def _card_lines(name: str, headroom: Headroom, summary: Summary, made: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {name}", "", f"A router, made by `trinity-mlx train`. {summary.verdict()}", "")
    if summary.caution():
        yield from (summary.caution(), "")
    yield from ("## Before training", "", headroom.paragraph(), "")
    yield from ("## Against the baselines, on the held-out split", "")
    yield from ("| method | setting | score | 95% | against best single | p |", "| --- | --- | --- | --- | --- | --- |")
    for row in summary_rows(headroom):
        yield f"| {' | '.join(_cell(text) for text in row.values())} |"
    score = summary.score
    yield (
        f"| **this router** | | **{score.mean:.4f}** | {score.low:.3f} to {score.high:.3f} "
        f"| {summary.gain.estimate.mean:+.4f} | {summary.gain.p:.3f} |"
    )
    yield from ("", "## How it was made", "", "| | |", "| --- | --- |")
    yield from (f"| {_cell(key)} | {_cell(value)} |" for key, value in made.items())
    yield f"| table | `{headroom.answers.sha256}` |"
    yield from ("", "## Agent slots", "")
    yield from (f"{slot}. {_cell(agent)}" for slot, agent in enumerate(summary.agents))
    if made.get("roles") == "neutral":
        yield from ("", "Its role rows are neutral: it says nothing about roles.")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
