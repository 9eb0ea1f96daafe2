"""What a router could gain on a table, before anything is trained: baselines, oracles, and what they leave between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .answers import Answers
from .closed_form import NEIGHBOURS, PENALTIES, RidgeScores, neighbour_scores, tfidf
from .row import SPLITS
from .statistics import Difference, Estimate, estimate, paired_difference

BEST_SINGLE = "best single (chosen on train)"
ORACLE = "oracle"
REPLAYED = "oracle, replayed on other repeats"
Predictor = Callable[[np.ndarray, float], np.ndarray]
"""From features and a setting to each agent's score."""


@dataclass(frozen=True)
class Method:
    """One way to choose: its score on each test row, what it comes to, and how it compares with the best single.

    ``choices`` [test rows] is -1 where a method does not choose one agent.
    """

    name: str
    scores: np.ndarray
    choices: np.ndarray
    estimate: Estimate
    gain: Difference
    setting: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "setting": self.setting,
            "score": self.estimate.to_dict(),
            "gain_over_best_single": self.gain.to_dict(),
        }


@dataclass(frozen=True)
class FrontierPoint:
    """What a router comes to that counts a unit of cost as ``weight``: mean score and mean cost on test."""

    weight: float
    score: float
    cost: float


@dataclass(frozen=True)
class Headroom:
    """Every method on the test split, the best single first."""

    answers: Answers
    methods: tuple[Method, ...]
    frontier: tuple[FrontierPoint, ...]

    def method(self, name: str) -> Method:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)

    @property
    def best_router(self) -> Method:
        """The routed method with the highest score; it was not chosen for that on these rows."""
        return max((method for method in self.methods if _is_learned(method.name)), key=lambda each: each.estimate.mean)

    @property
    def is_worth_it(self) -> bool:
        """Whether some router beats the best single by more than chance would explain."""
        return self.best_router.gain.estimate.low > 0.0

    def paragraph(self) -> str:
        """What this says, in words."""
        return " ".join(_sentences(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        counts = {split: int((self.answers.splits == split).sum()) for split in SPLITS}
        return {
            "agents": list(self.answers.agents),
            "rows": counts,
            "table_sha256": self.answers.sha256,
            "worth_it": self.is_worth_it,
            "in_words": self.paragraph(),
            "methods": [method.to_dict() for method in self.methods],
            "frontier": [{"weight": each.weight, "score": each.score, "cost": each.cost} for each in self.frontier],
        }


def headroom(answers: Answers, hidden: np.ndarray | None = None) -> Headroom:
    """Measure a table. What there is to choose (best single, neighbours, penalties) is chosen on train and val.

    Args:
        answers: the table, for one order of agents.
        hidden: the base's hidden vectors of all rows [rows, hidden]; without them the prompts' words alone are used.
    """
    test = answers.where("test")
    utility = answers.filled()
    best = utility[answers.where("train")].mean(0).argmax()
    base = utility[test, best]
    methods = [
        _method(name, utility[test], choices, base, setting)
        for name, choices, setting in _choices(answers, utility, hidden)
    ]
    return Headroom(answers, (*methods, *_oracles(answers, utility, base)), tuple(_frontier(answers, utility, hidden)))


def learned_choices(
    answers: Answers, utility: np.ndarray, features: np.ndarray, *, neighbours: bool
) -> tuple[np.ndarray, str]:
    """What kNN or ridge on ``features`` chooses on test, its setting chosen on val: [test rows], and the setting."""
    train, val = answers.where("train"), answers.where("val")
    predict = _predictor(features[train], utility[train], neighbours)
    settings: Sequence[float] = NEIGHBOURS if neighbours else PENALTIES
    worth = {each: _mean(utility[val], predict(features[val], each)) for each in settings}
    chosen = max(worth, key=lambda each: worth[each])
    scores = predict(features[answers.where("test")], chosen)
    return scores.argmax(1), f"{'k' if neighbours else 'penalty'} {chosen:g}"


def _predictor(known: np.ndarray, scores: np.ndarray, neighbours: bool) -> Predictor:
    if neighbours:
        return lambda asked, count: neighbour_scores(known, scores, asked, int(count))
    return RidgeScores(known, scores).predict


def _mean(utility: np.ndarray, predicted: np.ndarray) -> float:
    return float(utility[np.arange(len(utility)), predicted.argmax(1)].mean())


def _choices(answers: Answers, utility: np.ndarray, hidden: np.ndarray | None) -> Iterator[tuple[str, np.ndarray, str]]:
    train, test = answers.where("train"), answers.where("test")
    means = utility[train].mean(0)
    yield BEST_SINGLE, np.full(len(test), means.argmax()), answers.agents[int(means.argmax())]
    hindsight = int(utility[test].mean(0).argmax())
    yield "best single in hindsight", np.full(len(test), hindsight), answers.agents[hindsight]
    for slot, agent in enumerate(answers.agents):
        yield f"always {agent}", np.full(len(test), slot), ""
    categories = answers.categories
    if len(set(categories.tolist())) > 1:
        best_of = {each: utility[train][categories[train] == each].mean(0).argmax() for each in set(categories[train])}
        yield "best per category", np.array([best_of.get(each, means.argmax()) for each in categories[test]]), ""
    for name, features in _feature_sets(answers, hidden).items():
        for neighbours in (True, False):
            choices, setting = learned_choices(answers, utility, features, neighbours=neighbours)
            yield f"{'kNN' if neighbours else 'ridge'} on {name}", choices, setting


def _feature_sets(answers: Answers, hidden: np.ndarray | None) -> dict[str, np.ndarray]:
    words = {"words": tfidf(answers.texts, answers.where("train"))}
    return words if hidden is None else {"hidden vectors": hidden.astype(np.float64), **words}


def _method(name: str, utility: np.ndarray, choices: np.ndarray, base: np.ndarray, setting: str = "") -> Method:
    scores = utility[np.arange(len(utility)), choices]
    return Method(name, scores, choices, estimate(scores), paired_difference(scores, base), setting)


def _oracles(answers: Answers, utility: np.ndarray, base: np.ndarray) -> Iterator[Method]:
    test = answers.where("test")
    none = np.full(len(test), -1)
    random = utility[test].mean(1)
    yield Method("random", random, none, estimate(random), paired_difference(random, base))
    oracle = utility[test].max(1)
    yield Method(ORACLE, oracle, utility[test].argmax(1), estimate(oracle), paired_difference(oracle, base))
    yield from _replayed(answers, test, utility)


def _replayed(answers: Answers, test: np.ndarray, utility: np.ndarray) -> Iterator[Method]:
    """The oracle of the first repeat, scored on the others: what is left of it when luck is taken away."""
    rows = [index for index in test if all(len(answers.rows[index].runs.get(a, ())) > 1 for a in answers.agents)]
    if not rows:
        return
    first = np.array([[answers.rows[index].runs[agent][0] for agent in answers.agents] for index in rows])
    rest = np.array([[np.mean(answers.rows[index].runs[agent][1:]) for agent in answers.agents] for index in rows])
    scores = rest[np.arange(len(rows)), first.argmax(1)]
    single = rest[:, utility[answers.where("train")].mean(0).argmax()]
    none, setting = np.full(len(rows), -1), f"{len(rows)} rows with repeats"
    yield Method(REPLAYED, scores, none, estimate(scores), paired_difference(scores, single), setting)


def _frontier(answers: Answers, utility: np.ndarray, hidden: np.ndarray | None) -> Iterator[FrontierPoint]:
    """Ridge on scores and costs, for weights of cost from nothing to where the cheapest agent wins."""
    if np.isnan(answers.costs).all():
        return
    means = np.nanmean(answers.costs, axis=0)
    costs = np.where(np.isnan(answers.costs), means, answers.costs)
    features = next(iter(_feature_sets(answers, hidden).values()))
    train, test = answers.where("train"), answers.where("test")
    scores = RidgeScores(features[train], utility[train]).predict(features[test], 10.0)
    spread = float(means.max() - means.min()) or 1.0
    for weight in (0.0, *(np.geomspace(0.01, 3.0, 12) / spread)):
        chosen = (scores - weight * means).argmax(1)
        rows = np.arange(len(test))
        yield FrontierPoint(
            float(weight), float(utility[test][rows, chosen].mean()), float(costs[test][rows, chosen].mean())
        )


def _is_learned(name: str) -> bool:
    return name.startswith(("kNN", "ridge"))


def _sentences(measured: Headroom) -> Iterator[str]:
    single, router, oracle = measured.method(BEST_SINGLE), measured.best_router, measured.method(ORACLE)
    gain = router.gain
    yield (
        f"On {len(single.scores)} test rows the best single agent, {single.setting}, scores "
        f"{single.estimate.mean:.3f}; choosing the best agent for every row with hindsight would score "
        f"{oracle.estimate.mean:.3f}."
    )
    replayed = next((method for method in measured.methods if method.name == REPLAYED), None)
    if replayed:
        yield (
            f"Part of that oracle is luck: on the {len(replayed.scores)} rows with repeated answers, the agent that "
            f"did best once scores {replayed.estimate.mean:.3f} when asked again."
        )
    yield (
        f"A simple router ({router.name}) scores {router.estimate.mean:.3f}, which is {gain.estimate.mean:+.3f} "
        f"against the best single (95% interval {gain.estimate.low:+.3f} to {gain.estimate.high:+.3f}, p {gain.p:.3f})."
    )
    yield (
        "Training a router is worth it on prompts like these."
        if measured.is_worth_it
        else "That may be chance: training a router is hardly worth it on this table; use the best single agent."
    )


def summary_rows(measured: Headroom) -> list[Mapping[str, str]]:
    """The methods as rows of texts, for a table."""
    return [
        {
            "method": method.name,
            "setting": method.setting,
            "score": f"{method.estimate.mean:.4f}",
            "95%": f"{method.estimate.low:.3f} to {method.estimate.high:.3f}",
            "against best single": f"{method.gain.estimate.mean:+.4f}",
            "p": f"{method.gain.p:.3f}",
        }
        for method in measured.methods
    ]
