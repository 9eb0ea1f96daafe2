"""The options that name a lane, shared by the commands that run one: artifact, profile, and how the model is run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..contracts.backend import Variant
from . import settings
from .artifact_choice import recipe_for
from .options import NAME, artifact_option, base_option, dtype_option, profile_option

if TYPE_CHECKING:
    from pathlib import Path

    from ..evaluation.suite import Suite
    from ..routing.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])


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

    def recipe(self) -> Recipe:
        """How to load the router, with every name resolved."""
        return replace(recipe_for(self.artifact, self.base, self.profile, dtype=self.dtype), variant=self.variant)

    def given_suite(self) -> Suite | None:
        """The suite asked for; None where the lane or the artifact decides.

        Raises:
            InputFileError, SuiteInvalid: it cannot be read.
        """
        from ..evaluation.suite import find_suite

        return find_suite(self.suite, settings.config_dir() / "suites") if self.suite else None

    def snapshot_of_suite(self) -> Path | None:
        """The snapshot that belongs to the suite asked for, where it lies beside it.

        Raises:
            SuiteInvalid: a file of its name is another one.
        """
        from ..evaluation.suite import pinned_snapshot

        return pinned_snapshot(self.suite, settings.config_dir() / "suites") if self.suite else None


def command_line() -> str:
    """The command as the user typed it, without the program's folder."""
    from ..files.models import plain

    return plain(shlex.join(["trinity-mlx", *sys.argv[1:]]))
