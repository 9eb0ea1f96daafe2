"""The training itself: stage after stage, each kept only where the validation split says that it helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.errors import ResumeRefused
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .closed_form import constant_direction
from .head import Head, head_of
from .problem import Candidate, Problem, worth
from .stages import Stage

FALLBACK = "best single"


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generation came to: the curves of a report, a line of ``metrics.jsonl``."""

    stage: str
    number: int
    of: int
    train: float
    val: float
    best: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True)
class Progress:
    """Where a training stands, whole: what a checkpoint holds besides the current stage's own state."""

    best: Candidate
    best_val: float
    stage: int = 0
    stage_best: Candidate | None = None
    stage_val: float = -np.inf
    done: int = 0
    since: int = 0
    generation: int = 0
    kept: tuple[str, ...] = ()
    history: tuple[Generation, ...] = field(default_factory=tuple)
    stopped: bool = False


@dataclass(frozen=True)
class Limits:
    """When to stop: after ``seconds``, or after ``patience`` generations of one stage without a gain on val."""

    seconds: float | None = None
    patience: int = 30


class Trainer:
    """Runs stages over a problem.

    Args:
        problem: the train split.
        validation: the same for the validation split, which decides what is kept.
        stages: in order.
        folder: where checkpoints lie; none are written without it.
        fingerprint: a hash of all that the result depends on, so that nothing else is resumed.
        limits: when to stop.
        watch: told of each generation when it has been kept on disk.
    """

    def __init__(
        self,
        problem: Problem,
        validation: Problem,
        stages: Sequence[Stage],
        *,
        folder: Path | None = None,
        fingerprint: str = "",
        limits: Limits | None = None,
        watch: Callable[[Generation], None] = lambda generation: None,
    ) -> None:
        self._problem = problem
        self._validation = validation
        self._stages = tuple(stages)
        self._folder = folder
        self._fingerprint = fingerprint
        self._limits = limits or Limits()
        self._watch = watch

    def run(self, *, resume: bool = False) -> Progress:
        """The best candidate, with the way to it. Resumed, the same as if it had never been broken off.

        Raises:
            ResumeRefused: what lies in the folder was begun from something else, or is broken.
            FolderUnavailable: a checkpoint cannot be written.
        """
        started = time.monotonic()
        progress, state = self._begun(resume)
        while progress.stage < len(self._stages) and not self._is_late(started):
            progress = self._stage(progress, state, started)
            state = None
        if progress.stage == len(self._stages):
            return progress
        return replace(self._ended(self._stages[progress.stage], progress), stopped=True)

    def _begun(self, resume: bool) -> tuple[Progress, Mapping[str, np.ndarray] | None]:
        checkpoint = load_checkpoint(self._folder) if resume and self._folder else None
        if checkpoint is None:
            fallback = best_single(self._problem)
            return Progress(fallback, self._val(fallback)), None
        if checkpoint.values["fingerprint"] != self._fingerprint:
            raise ResumeRefused(
                f"what lies in {self._folder} was begun from another table, base or settings: "
                "go on with those, or delete the folder and train anew"
            )
        return self._unpacked(checkpoint)

    def _stage(self, progress: Progress, state: Mapping[str, np.ndarray] | None, started: float) -> Progress:
        stage = self._stages[progress.stage]
        if state is None:
            stage.begin(progress.best)
        else:
            stage.resume(progress.best, state)
        while progress.done < stage.generations and progress.since < self._limits.patience:
            if self._is_late(started):
                return progress
            progress = self._generation(stage, progress)
        return self._ended(stage, progress)

    def _generation(self, stage: Stage, progress: Progress) -> Progress:
        began = time.monotonic()
        candidate, train = stage.step()
        val = self._val(candidate)
        better = val > progress.stage_val
        best = max(progress.best_val, progress.stage_val, val)
        seconds = time.monotonic() - began
        done = progress.done + 1
        told = Generation(stage.name, done, stage.generations, train, val, best, round(seconds, 4))
        progress = replace(
            progress,
            stage_best=candidate if better else progress.stage_best,
            stage_val=max(val, progress.stage_val),
            done=done,
            since=0 if better else progress.since + 1,
            generation=progress.generation + 1,
            history=(*progress.history, told),
        )
        self._save(stage, progress)
        self._watch(told)
        return progress

    def _ended(self, stage: Stage, progress: Progress) -> Progress:
        helped = progress.stage_best is not None and progress.stage_val > progress.best_val
        return Progress(
            best=progress.stage_best if helped and progress.stage_best else progress.best,
            best_val=progress.stage_val if helped else progress.best_val,
            stage=progress.stage + 1,
            generation=progress.generation,
            kept=(*progress.kept, stage.name) if helped else progress.kept,
            history=progress.history,
        )

    def _val(self, candidate: Candidate) -> float:
        return worth(self._validation, self._validation.hidden_at(candidate.offsets), candidate.head)

    def _is_late(self, started: float) -> bool:
        return self._limits.seconds is not None and time.monotonic() - started >= self._limits.seconds

    def _save(self, stage: Stage, progress: Progress) -> None:
        if self._folder is None:
            return
        names = ("stage", "stage_val", "best_val", "done", "since", "generation")
        values = {name: getattr(progress, name) for name in names} | {
            "fingerprint": self._fingerprint,
            "kept": list(progress.kept),
            "history": [each.to_dict() for each in progress.history],
        }
        arrays = {f"stage.{name}": array for name, array in stage.state().items()}
        arrays |= self._packed("best", progress.best) | self._packed("stage_best", progress.stage_best)
        save_checkpoint(self._folder, Checkpoint(values, arrays))

    def _packed(self, name: str, candidate: Candidate | None) -> dict[str, np.ndarray]:
        if candidate is None:
            return {}
        offsets = self._problem.layout.joined(candidate.offsets)
        heads = {f"{name}|head.{part}": values for part, values in candidate.head.arrays().items()}
        return {**heads, f"{name}|offsets": offsets}

    def _unpacked(self, checkpoint: Checkpoint) -> tuple[Progress, Mapping[str, np.ndarray]]:
        values, arrays = checkpoint.values, checkpoint.arrays
        candidates = {
            name: Candidate(
                self._problem.layout.split(arrays[f"{name}|offsets"]), head_of(_below(f"{name}|head.", arrays))
            )
            for name in ("best", "stage_best")
            if f"{name}|offsets" in arrays
        }
        progress = Progress(
            best=candidates["best"],
            stage_best=candidates.get("stage_best"),
            kept=tuple(values["kept"]),
            history=tuple(Generation(**each) for each in values["history"]),
            **{name: values[name] for name in ("stage", "stage_val", "best_val", "done", "since", "generation")},
        )
        return progress, _below("stage.", arrays)


def best_single(problem: Problem) -> Candidate:
    """The candidate that always chooses the agent that is best on train: what any training has to beat."""
    best = int(problem.utility.mean(0).argmax())
    head = np.zeros(problem.head_shape)
    head[best] = constant_direction(problem.hidden)
    return Candidate(problem.layout.zero(), Head(head))


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
