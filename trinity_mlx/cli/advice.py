"""What to try after an error: the one table from a type of error to an option or a command.

Below the command line an error states the fact; which option changes it is known here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import click

from ..contracts import errors


class Advice(NamedTuple):
    """What to try; where it names an option, only a command that has it gives the advice."""

    text: str
    option: str = ""


_ARTIFACTS = "trinity-mlx artifacts lists what is here, and trinity-mlx fetch sakana gets the published router"

TABLE: Mapping[type[errors.TrinityError], tuple[Advice, ...]] = {
    errors.ArtifactNotFound: (Advice(_ARTIFACTS, "artifact"), Advice(_ARTIFACTS, "bundle"), Advice(_ARTIFACTS, "yes")),
    errors.BaseInvalid: (Advice("--base with another folder, or OWNER/NAME[@REVISION]", "base"),),
    errors.BaseMismatch: (Advice("--base with the folder or the revision that the artifact names", "base"),),
    errors.FileMismatch: (Advice("trinity-mlx fetch brings what is missing or has changed, and keeps the rest"),),
    errors.FloorLowered: (Advice("--allow-lower, where that is meant", "allow_lower"),),
    errors.FolderUnavailable: (
        Advice("--dest with another folder", "dest"),
        Advice("--out with another folder; what was broken off goes on with --resume", "resume"),
        Advice("--out with another place", "out"),
    ),
    errors.HomeUnavailable: (
        Advice(
            "again without --offline and HF_HUB_OFFLINE, or once the network is back; what asks for a permission reads "
            "HF_TOKEN or `hf auth login`, and for s3:// the AWS variables and files",
            "offline",
        ),
    ),
    errors.LiveCallRefused: (Advice("--live, which allows such calls: they may cost money", "live"),),
    errors.NonFiniteLogits: (Advice("--dtype float32", "dtype"),),
    errors.NotEnoughMemory: (
        Advice("--method gram, which works tile by tile", "method"),
        Advice("--quantize 8, or --dtype bfloat16", "quantize"),
        Advice("--dtype bfloat16", "dtype"),
    ),
    errors.OutputExists: (
        Advice("--resume to go on with what is there, --force to replace it, or another --out", "resume"),
        Advice("--force to replace it, or another --out", "force"),
        Advice("another --out", "out"),
    ),
    errors.ParitySetupError: (
        Advice("trinity-mlx parity reference makes components and stages, with --all for every tensor"),
    ),
    errors.PoolInvalid: (Advice("trinity-mlx pool --help shows a whole pool"),),
    errors.ProfileInvalid: (Advice("to mend or remove that file, or --profile with another one", "profile"),),
    errors.ProfileUnavailable: (Advice("trinity-mlx profiles lists what can run here"),),
    errors.ResumeRefused: (Advice("--force, which starts anew", "force"),),
    errors.SecretUnavailable: (Advice("trinity-mlx pool check looks for every key of a pool"),),
    errors.UnknownProfile: (Advice("trinity-mlx profiles lists what there is"),),
}
"""By type of error, what to try; the first that the command has the option for."""


def advice(error: errors.TrinityError, command: click.Command | None) -> str:
    """What to try after ``error`` in ``command``; empty where nobody knows."""
    options = {parameter.name for parameter in command.params} if command else set()
    for kind in type(error).__mro__:
        for entry in TABLE.get(kind, ()):
            if not entry.option or entry.option in options:
                return entry.text
    return ""
