"""What a training came to, measured once on the test split: against every baseline, by category, by margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .guard import Guard
from .headroom import BEST_SINGLE, Headroom
from .settings import Settings
from .statistics import Difference, Estimate, estimate, paired_difference
from .trainer import Progress

MARGIN_GROUPS = 5


@dataclass(frozen=True)
class Comparison:
    """The trained router less another method, on the same test rows."""

    name: str
    score: float
    difference: Difference


@dataclass(frozen=True)
class CategoryRow:
    """One category on test: rows, the trained router's score, the best single's, and how often each agent is chosen."""

    name: str
    rows: int
    score: float
    best_single: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class MarginGroup:
    """Test rows whose margin lies between two bounds: what they score, and what the best single scores there."""

    low: float
    high: float
    rows: int
    score: float
    best_single: float


@dataclass(frozen=True)
class Summary:
    """The trained router on test."""

    agents: tuple[str, ...]
    settings: Settings
    score: Estimate
    gain: Difference
    val: float
    kept: tuple[str, ...]
    stopped: bool
    comparisons: tuple[Comparison, ...]
    categories: tuple[CategoryRow, ...]
    margins: tuple[MarginGroup, ...]
    choices: np.ndarray
    guard: Guard | None
    unguarded: float

    @property
    def helped(self) -> bool:
        """Whether it beats the best single by more than chance would explain."""
        return self.gain.estimate.low > 0.0

    def verdict(self) -> str:
        """What it came to, in a sentence or two; bad news first."""
        gain = self.gain
        told = (
            f"On {len(self.choices)} held-out rows it scores {self.score.mean:.4f}, "
            f"{gain.estimate.mean:+.4f} against the "
            f"best single agent (95% interval {gain.estimate.low:+.4f} to {gain.estimate.high:+.4f}, p {gain.p:.3f})."
        )
        return told if self.helped else f"Training did not help: use the best single agent. {told}"

    def caution(self) -> str:
        """What to do about kinds of prompts that were not in the table; empty where nothing was learned about it."""
        if self.guard is None:
            return ""
        guard, trial, bare = self.guard, self.guard.chosen, self.guard.trials[0]
        told = (
            f"Where a prompt is unlike all that it was trained on (by more than {guard.limit:.3g}), it asks "
            f"{self.agents[guard.slot]}: with kinds of prompts left out of training, that brought {trial.unseen:+.4f} "
            f"against the best single agent on those kinds ({bare.unseen:+.4f} without), {trial.worst:+.4f} on the "
            f"worst fold of them ({bare.worst:+.4f} without). On the held-out rows it scores {self.unguarded:.4f} "
            "without that guard."
        )
        return (
            told if trial.holds else f"{told} No guard held on kinds left out: use it on the kinds in the table alone."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "helped": self.helped,
            "in_words": self.verdict(),
            "agents": list(self.agents),
            "score": self.score.to_dict(),
            "gain_over_best_single": self.gain.to_dict(),
            "val": self.val,
            "stages_kept": list(self.kept),
            "guard": self.guard.to_dict() | {"score_without": self.unguarded} if self.guard else None,
            "stopped_early": self.stopped,
            "settings": self.settings.to_dict(),
            "comparisons": [
                {"name": each.name, "score": each.score, "difference": each.difference.to_dict()}
                for each in self.comparisons
            ],
            "categories": [
                {
                    "name": each.name,
                    "rows": each.rows,
                    "score": each.score,
                    "best_single": each.best_single,
                    "shares": dict(zip(self.agents, each.shares, strict=True)),
                }
                for each in self.categories
            ],
            "margins": [
                {"low": g.low, "high": g.high, "rows": g.rows, "score": g.score, "best_single": g.best_single}
                for g in self.margins
            ],
        }


def summarise(
    headroom: Headroom,
    progress: Progress,
    logits: np.ndarray,
    hidden: np.ndarray,
    settings: Settings,
    guard: Guard | None = None,
) -> Summary:
    """Hold the router with ``logits`` [test rows, agents] of ``hidden`` [test rows, hidden] against every method."""
    answers = headroom.answers
    test = answers.where("test")
    utility = answers.filled()[test]
    choices = guard.choose(logits, hidden) if guard else logits.argmax(1)
    scores = utility[np.arange(len(test)), choices]
    single = headroom.method(BEST_SINGLE).scores
    comparable = [method for method in headroom.methods if len(method.scores) == len(scores)]
    return Summary(
        agents=answers.agents,
        settings=settings,
        score=estimate(scores),
        gain=paired_difference(scores, single),
        val=progress.best_val,
        kept=progress.kept,
        stopped=progress.stopped,
        comparisons=tuple(
            Comparison(each.name, each.estimate.mean, paired_difference(scores, each.scores)) for each in comparable
        ),
        categories=tuple(_categories(answers.categories[test], scores, single, choices, len(answers.agents))),
        margins=tuple(_margins(logits, scores, single)),
        choices=choices,
        guard=guard,
        unguarded=float(utility[np.arange(len(test)), logits.argmax(1)].mean()),
    )


def _categories(
    names: np.ndarray, scores: np.ndarray, single: np.ndarray, choices: np.ndarray, agents: int
) -> Sequence[CategoryRow]:
    rows = []
    for name in sorted(set(names.tolist())):
        of = names == name
        shares = tuple(float((choices[of] == slot).mean()) for slot in range(agents))
        rows.append(CategoryRow(name, int(of.sum()), float(scores[of].mean()), float(single[of].mean()), shares))
    return sorted(rows, key=lambda row: row.score - row.best_single)


def _margins(logits: np.ndarray, scores: np.ndarray, single: np.ndarray) -> Sequence[MarginGroup]:
    """Rows in groups of equal size by margin, smallest first: is a small one really less sure?"""
    if logits.shape[1] < 2:
        return []
    ordered = np.sort(logits, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    groups = np.array_split(np.argsort(margins, kind="stable"), min(MARGIN_GROUPS, len(margins)))
    return [
        MarginGroup(
            float(margins[rows].min()),
            float(margins[rows].max()),
            len(rows),
            float(scores[rows].mean()),
            float(single[rows].mean()),
        )
        for rows in groups
    ]
