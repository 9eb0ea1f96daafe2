"""The options that name a lane, shared by the commands that run one: artifact, profile, and how the model is run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..contracts.backend import Variant
from . import settings
from .artifact_choice import choose_artifact
from .options import NAME, artifact_option, base_option, dtype_option, profile_option

if TYPE_CHECKING:
    from ..evaluation.certify import RouterSource
    from ..evaluation.lane import Lane
    from ..evaluation.suite import Suite
    from ..routing.router import Router

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SUITES = {"nano": "nano-64", "sakana": "seed-12", "sakana-adapted": "seed-12"}
"""The suite of an artifact whose lane names none."""


def lane_options(command: F) -> F:
    """Adds the options; the command takes them as ``LaneOptions(**those)``."""
    for option in reversed(
        (
            click.option(
                "--suite",
                type=NAME,
                metavar="NAME|FILE",
                help="A shipped suite, or a JSON file.  [default: the lane's]",
            ),
            artifact_option,
            base_option,
            profile_option,
            dtype_option,
            click.option(
                "--kernels",
                type=click.Choice(["fused", "composed"]),
                default="fused",
                show_default=True,
                help="The framework's fast kernels, or the same from plain operations.",
            ),
            click.option(
                "--quantize", type=click.Choice(["8", "4"]), help="Bits of the base's weights: 8, or 4 on MLX."
            ),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class LaneOptions:
    """What the user said; ``suite`` is None where the lane decides."""

    suite: str | None
    artifact: str
    base: str | None
    profile: str
    dtype: Any
    kernels: Any
    quantize: str | None

    @classmethod
    def take_from(cls, options: dict[str, Any]) -> LaneOptions:
        """What ``lane_options`` added to a command's options, taken out of them."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    @property
    def variant(self) -> Variant:
        """Kernels and quantisation."""
        bits: Any = int(self.quantize) if self.quantize else None
        return Variant(self.kernels, bits)

    def source(self) -> RouterSource:
        """What loads the router, with every name resolved."""
        from ..evaluation.certify import RouterSource

        choice = choose_artifact(self.artifact, self.base, self.profile)
        return RouterSource(
            artifact=choice.artifact,
            base=choice.base,
            profile=self.profile,
            dtype=self.dtype,
            variant=self.variant,
            config_dir=settings.config_dir(),
            hash_memory=settings.hash_memory(),
        )

    def given_suite(self) -> Suite | None:
        """The suite asked for; None where the lane or the artifact decides.

        Raises:
            InputFileError, SuiteInvalid: it cannot be read.
        """
        from ..evaluation.suite import find_suite

        return find_suite(self.suite) if self.suite else None


def default_suite(artifact: str, lane: Lane | None = None) -> Suite:
    """The suite of the lane where it ships with the package, else the one that ships for the artifact.

    Raises:
        UsageError: none of these is known.
    """
    from ..contracts.errors import UsageError
    from ..evaluation.suite import builtin_suites, find_suite

    of_lane = lane.suite.name if lane and lane.suite else None
    name = of_lane if of_lane in builtin_suites() else DEFAULT_SUITES.get(artifact)
    if name is None:
        measured = f"; its lane was measured with {of_lane}" if of_lane else ""
        raise UsageError(f"no suite that ships with this package is for {artifact}: pass --suite with yours{measured}")
    return find_suite(name)


def lane_of(router: Router, variant: Variant) -> tuple[Lane | None, list[str]]:
    """The lane that belongs to a loaded router, and what people should know about it."""
    from ..evaluation.lane import find_lane

    identity = router.identity
    lane = find_lane(identity.profile, identity.artifact.name, variant, settings.config_dir())
    if lane is None:
        return None, [f"no lane is known for {identity.artifact.name} on {identity.profile}: see trinity-mlx certify"]
    if not lane.describes(identity.artifact, identity.head_ref):
        return None, [f"lane {lane.name} was measured with another {identity.artifact.name}: it is not used"]
    notes = []
    if lane.status != "measured":
        notes.append(f"lane {lane.name} is {lane.status}{': ' if lane.note else ''}{lane.note}")
    if lane.variant != variant.label:
        notes.append(f"{variant.label} has no lane of its own: it is held against {lane.name}")
    for name, actual in (("dtype", identity.dtype), ("device", identity.device)):
        held = lane.provenance.get(name)
        if held not in (None, actual):
            notes.append(f"lane {lane.name} was measured with {name} {held}, and this is {actual}")
    return lane, notes


def command_line() -> str:
    """The command as the user typed it, without the program's folder."""
    from ..evaluation.files import plain

    return plain(shlex.join(["trinity-mlx", *sys.argv[1:]]))
