"""From a table to a sealed bundle with its report: what ``trinity-mlx train`` does, without the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..contracts.artifact import Bundle
from ..contracts.errors import UsageError
from ..contracts.routing import Role
from ..files.atomic import write_file
from ..files.safetensors import read_float32
from .answers import Answers
from .features import Features
from .guard import Guard, learn_guard
from .head import ALPHA, Head, stacked
from .headroom import Headroom, headroom
from .output import METRICS, Output
from .problem import Candidate, Problem, typical_length
from .reading import Engine, Reading, base_hidden
from .refit import chosen_fit, refitted
from .report import render_training, training_card
from .roles import RoleExample, RoleSource, default_source, fit_roles, neutral_roles, role_examples
from .sealing import BaseIdentity, Learned, seal
from .settings import Settings, stages_for
from .stages import Stage
from .summary import Summary, summarise
from .trainer import Generation, Limits, Progress, Trainer
from .vector_layout import Layout

CARD, REPORT, RECORD = "README.md", "report.html", "report.json"


@dataclass(frozen=True)
class TrainingRequest:
    """One training, from a table to a bundle.

    Attributes:
        answers: the table, for the order of agents that becomes the order of slots.
        reading: the base, and how transcripts are read.
        identity: what the bundle calls its base.
        engine: where tensor work runs.
        settings: what is trained, and how.
        out: the bundle's folder; checkpoints lie beside it until the bundle is sealed.
        roles: where the role rows come from; by default the best source that the table has.
        keep_roles_of: the router whose role rows are kept.
        max_seconds: when to stop training and seal what is best so far.
        resume: go on from the checkpoint beside ``out``.
        force: replace what lies at ``out``.
    """

    answers: Answers
    reading: Reading
    identity: BaseIdentity
    engine: Engine
    settings: Settings
    out: Path
    roles: RoleSource | None = None
    keep_roles_of: Bundle | None = None
    max_seconds: float | None = None
    resume: bool = False
    force: bool = False

    @property
    def output(self) -> Output:
        """Where the results go."""
        return Output(self.out, self.resume, self.force)

    @property
    def role_source(self) -> RoleSource:
        """Where the role rows come from."""
        return self.roles or default_source(self.answers.rows)

    def fingerprint(self) -> str:
        """A hash of all that the result depends on."""
        inputs = {
            "table": self.answers.sha256,
            "agents": self.answers.agents,
            "base": self.engine.key(self.reading.base),
            "text_format": str(self.reading.text_format),
            "window": repr(self.reading.window),
            "position": str(self.reading.position),
            "settings": self.settings.to_dict(),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """What a training gave."""

    bundle: Bundle
    summary: Summary
    progress: Progress


@dataclass(frozen=True)
class Watch:
    """Who is told of what: each reading of rows, each generation."""

    rows: Callable[[int], None] = lambda count: None
    generation: Callable[[Generation], None] = lambda generation: None


def train(request: TrainingRequest, watch: Watch | None = None) -> Trained:
    """Train, seal and report.

    Raises:
        OutputExists: something lies at ``out``, or a training beside it, and neither ``force`` nor ``resume`` is set.
        ResumeRefused: what lies beside ``out`` was begun from something else.
        TableInvalid: the table lacks what the objective or the roles need.
        ContextLengthError: a transcript is too long for the base, and no window was given.
        UsageError: settings do not fit the base, or the backend cannot evaluate candidates.
        FolderUnavailable: a file cannot be written.
    """
    watch = watch or Watch()
    _check(request)
    transcripts = [row.transcript for row in request.answers.rows]
    examples = [example.transcript for example in _role_examples(request)]
    request = replace(request, reading=request.reading.settled([*transcripts, *examples]))
    base, settings = request.reading.base, request.settings
    layout = Layout.of(base, settings.layers, embedding=settings.embedding)
    segments = request.reading.segments(transcripts)
    features = request.engine.features(base, layout, segments)
    hidden = base_hidden(features, layout, request.engine, base, watch.rows).astype(np.float64)
    problem = _problem(request, features, layout, hidden, "train")
    validation, stages = _problem(request, features, layout, hidden, "val"), stages_for(settings, problem)
    progress = Trainer(
        problem,
        validation,
        stages,
        folder=request.output.workspace,
        fingerprint=request.fingerprint(),
        limits=Limits(request.max_seconds, settings.patience),
        watch=_recording(request, watch.generation),
    ).run(resume=request.resume)
    if settings.refits:
        progress = replace(progress, best=refitted(progress, stages, problem, validation))
    before = headroom(request.answers, hidden)
    tested = _problem(request, features, layout, hidden, "test")
    routed = tested.hidden_at(progress.best.offsets)
    guard = _guard(request, progress, stages, problem, validation)
    summary = summarise(before, progress, progress.best.head.logits(routed), routed, settings, guard)
    bundle = _sealed(request, layout, progress, before, summary, typical_length(hidden))
    return Trained(bundle, summary, progress)


def _check(request: TrainingRequest) -> None:
    """What could only be refused when all is trained is refused before any work."""
    request.settings.check(request.reading.base.config.hidden_size)
    request.settings.objective.utility(request.answers)
    if request.role_source is RoleSource.KEEP:
        _kept_roles(request)
    request.output.claim()


def _problem(request: TrainingRequest, features: Features, layout: Layout, hidden: np.ndarray, split: str) -> Problem:
    rows = request.answers.where(split)
    settings = request.settings
    return Problem(
        features=features,
        train=rows,
        utility=settings.objective.utility(request.answers)[rows],
        hidden=hidden[rows],
        layout=layout if settings.offsets else replace(layout, spectra={}),
        kind=settings.head_kind(typical_length(hidden[request.answers.where("train")])),
        objective=settings.objective,
        seed=settings.seed,
    )


def _guard(
    request: TrainingRequest, progress: Progress, stages: Sequence[Stage], problem: Problem, validation: Problem
) -> Guard | None:
    """The floor under unseen kinds, learned with the fit that was chosen; None where none was."""
    chosen = chosen_fit(progress, stages)
    if chosen is None:
        return None
    stage, number = chosen
    train, val = (replace(each, hidden=each.hidden_at(progress.best.offsets)) for each in (problem, validation))
    categories = request.answers.categories[np.concatenate([train.train, val.train])]
    return learn_guard(train, val, lambda rows: stage.again(rows, number), [categories])


def _recording(request: TrainingRequest, tell: Callable[[Generation], None]) -> Callable[[Generation], None]:
    """Adds each generation to ``metrics.jsonl`` before it is told."""
    path = request.output.workspace / METRICS

    def record(generation: Generation) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(generation.to_dict()) + "\n")
        tell(generation)

    return record


def _sealed(
    request: TrainingRequest, layout: Layout, progress: Progress, before: Headroom, summary: Summary, length: float
) -> Bundle:
    """The bundle, made in the workspace and moved to its place when it is whole."""
    best = progress.best
    head = stacked(best.head, _role_rows(request, layout, best), length)
    folder = request.output.workspace / request.out.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = _made(request, progress)
    _write_records(folder, progress, before, summary, made)
    bundle = seal(
        folder,
        request.identity,
        Learned(layout, best.offsets, head, summary.guard),
        request.answers.agents,
        reading=request.reading,
        made=made,
        lineage={"base": request.reading.base.ref, "table": request.answers.sha256},
    )
    return request.output.publish(bundle.folder)


def _write_records(
    folder: Path, progress: Progress, before: Headroom, summary: Summary, made: Mapping[str, str]
) -> None:
    """What tells people and programs how the bundle came about: record, report, card and curves."""
    record = {**summary.to_dict(), "made": made, "headroom": before.to_dict()}
    write_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    write_file(folder / REPORT, render_training(before, summary, progress, made).encode("utf-8", "replace"))
    write_file(folder / CARD, training_card(folder.name, before, summary, made).encode("utf-8", "replace"))
    lines = "".join(json.dumps(each.to_dict()) + "\n" for each in progress.history)
    write_file(folder / METRICS, lines.encode())


def _role_rows(request: TrainingRequest, layout: Layout, best: Candidate) -> Head:
    hidden_size = request.reading.base.config.hidden_size
    source = request.role_source
    if source is RoleSource.NEUTRAL:
        return Head(neutral_roles(hidden_size))
    if source is RoleSource.KEEP:
        return _kept_roles(request)
    examples = _role_examples(request)
    segments = request.reading.segments([example.transcript for example in examples])
    features = request.engine.features(request.reading.base, layout, segments)
    offsets = {**layout.zero(), **best.offsets}
    hidden = features.hidden(np.arange(len(segments)), layout.gains(offsets))[0]
    return Head(fit_roles(hidden, [example.role for example in examples]))


def _role_examples(request: TrainingRequest) -> list[RoleExample]:
    return role_examples(request.role_source, [row for row in request.answers.rows if row.split != "test"])


def _kept_roles(request: TrainingRequest) -> Head:
    kept = request.keep_roles_of
    if kept is None or kept.base_ref != request.reading.base.ref:
        raise UsageError("role rows are kept from a router on the same base: name one")
    if kept.head.position is not request.reading.position or (kept.head.elu and kept.head.elu.alpha != ALPHA):
        raise UsageError(
            f"role rows are kept from a router that reads the same token, by the same ELU: {kept.name} reads the "
            f"{kept.head.position} token"
        )
    matrix = np.array(read_float32(kept.head.tensor)[-len(Role) :], dtype=np.float64)
    if kept.head.elu is None:
        return Head(matrix)
    used = matrix.any(axis=0)
    return Head(matrix[:, used], np.array(read_float32(kept.head.elu.tensor), dtype=np.float64)[used])


def _made(request: TrainingRequest, progress: Progress) -> Mapping[str, str]:
    settings, window = request.settings, request.reading.window
    return {
        "command": "trinity-mlx train",
        "algorithm": settings.algorithm,
        "stages kept": ", ".join(progress.kept) or "none: the best single agent",
        "head": settings.head_name,
        "offsets": "layers" if settings.offsets else "none",
        "embedding offsets": "trained" if settings.embedding else "off",
        "fitted on": "train and val, once all was chosen" if settings.refits else "train",
        "roles": str(request.role_source),
        "reads": f"the {request.reading.position} token",
        "window": f"{window.head},{window.tail},{window.step}" if window else "none",
        "seed": str(settings.seed),
        "settings": hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode()).hexdigest(),
        "backend": request.engine.key(request.reading.base).split("|")[0],
        "dtype": request.engine.dtype,
        "trinity-mlx": version("trinity-mlx"),
        "numpy": np.__version__,
    }
