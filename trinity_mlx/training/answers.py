"""A table as arrays, for one order of agents: the slots of the router that is to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..contracts.errors import TableInvalid
from .closed_form import mean_by_column
from .row import SPLITS, Row
from .table import Table, split_by_text, straddling

MOST_AGENTS = 64


@dataclass(frozen=True)
class Answers:
    """What is known of each agent's answer to each row.

    Attributes:
        agents: their names, in the order of the slots.
        rows: the table's rows that have a score of at least one of these agents.
        scores: float64 [rows, agents], NaN where an agent was not asked.
        costs: float64 [rows, agents], NaN where unknown.
        seconds: float64 [rows, agents], NaN where unknown.
        turns: float64 [rows, agents], NaN where unknown.
        splits: ``train``, ``val`` or ``test`` for each row.
        sha256: the table's.
    """

    agents: tuple[str, ...]
    rows: tuple[Row, ...]
    scores: np.ndarray
    costs: np.ndarray
    seconds: np.ndarray
    turns: np.ndarray
    splits: np.ndarray
    sha256: str

    @classmethod
    def of(cls, table: Table, agents: Sequence[str]) -> Answers:
        """The answers of ``agents``; a table without splits is split by the hash of its prompts.

        Raises:
            TableInvalid: an agent is not in the table or named twice, there are too many, only some rows have a split,
                a prompt stands in two splits, or a split has no row.
        """
        _check_agents(table, agents)
        table = _split(table)
        rows = tuple(row for row in table.rows if any(agent in row.scores for agent in agents))
        splits = np.array([row.split for row in rows])
        for split in SPLITS:
            if split not in splits:
                raise TableInvalid(
                    f"no row of split {split} has a score of {', '.join(agents)}: {', '.join(SPLITS)} need rows each"
                )
        return cls(
            agents=tuple(agents),
            rows=rows,
            scores=_matrix([row.scores for row in rows], agents),
            costs=_matrix([row.costs for row in rows], agents),
            seconds=_matrix([row.seconds for row in rows], agents),
            turns=_matrix([row.turns for row in rows], agents),
            splits=splits,
            sha256=table.sha256,
        )

    def where(self, *splits: str) -> np.ndarray:
        """Indices of the rows in ``splits``, ascending."""
        return np.flatnonzero(np.isin(self.splits, splits))

    @property
    def categories(self) -> np.ndarray:
        """Each row's category; ``-`` where it has none."""
        return np.array([row.category or "-" for row in self.rows])

    @property
    def texts(self) -> list[str]:
        """Each row's prompt."""
        return [row.text for row in self.rows]

    def filled(self) -> np.ndarray:
        """``scores`` with what is missing replaced by the agent's mean on the train split; float64 [rows, agents]."""
        means = mean_by_column(self.scores[self.where("train")])
        return np.where(np.isnan(self.scores), means, self.scores)


def _check_agents(table: Table, agents: Sequence[str]) -> None:
    unknown = [agent for agent in agents if agent not in table.agents]
    if unknown:
        raise TableInvalid(f"the table has no agent {unknown[0][:80]!r}; it has {', '.join(table.agents)[:1000]}")
    if not 1 <= len(agents) <= MOST_AGENTS or len(set(agents)) < len(agents):
        raise TableInvalid(f"{len(agents)} agents ({', '.join(agents)[:200]}): name 1 to {MOST_AGENTS}, each once")


def _split(table: Table) -> Table:
    given = [row for row in table.rows if row.split]
    if not given:
        return table.with_splits(split_by_text)
    if len(given) < len(table.rows):
        missing = next(row for row in table.rows if not row.split)
        raise TableInvalid(f"row {missing.id[:80]!r} (line {missing.line}) has no split, and other rows have one")
    pairs = straddling(table)
    if pairs:
        one, other = pairs[0]
        raise TableInvalid(
            f"rows {one.id[:80]!r} ({one.split}) and {other.id[:80]!r} ({other.split}) have the same prompt: "
            "what is tested was then trained on; split the table anew"
        )
    return table


def _matrix(values: Sequence[Mapping[str, float]], agents: Sequence[str]) -> np.ndarray:
    return np.array([[each.get(agent, np.nan) for agent in agents] for each in values], dtype=np.float64)
