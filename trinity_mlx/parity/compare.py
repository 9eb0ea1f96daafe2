"""Two stage bundles against each other, in chunks of bounded memory.

Singular vectors are unique only up to their sign. So where each side has decomposed the source for itself, each column
of the candidate's ``u_scaled`` takes the sign that agrees with the reference's before the two are compared, and the
check tells how many columns were turned. No other stage depends on the sign. Between bundles made from the same
components nothing is turned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..contracts.artifact import TensorLocation
from ..contracts.errors import ParitySetupError
from ..factorization.stages import Stage
from ..files.paths import exists
from ..files.safetensors import STORED, read_header
from .checks import LIMITS, UNKNOWN, Check, Comparison
from .difference import Advance, difference, in_silence
from .foreign_reports import stage_files
from .provenance import PUBLISHED, published_sha256
from .report import StageReport, read_report
from .stages import STAGES_FILE, parse_key, stage_key


@dataclass(frozen=True)
class StageBundle:
    """The stages of one side by name in the file, and its report where it has one."""

    path: Path
    tensors: Mapping[str, TensorLocation]
    report: StageReport | None


def open_stages(path: Path) -> StageBundle:
    """A stage bundle from its folder, or from what another system wrote: a safetensors file of stages, or its report.

    Raises:
        ParitySetupError: nothing is there, a folder is not a finished bundle, a file holds no stage, or one that is
            not of floats, or a report names no file, or two with the same stage.
        TensorFileInvalid: the file is truncated or corrupt.
    """
    if not exists(path):
        raise ParitySetupError(f"no stage bundle at {path}")
    if path.is_dir():
        report = read_report(path)
        return StageBundle(path / STAGES_FILE, _stages_in(path / STAGES_FILE), report)
    files = stage_files(path) if path.suffix == ".json" else (path,)
    tensors: dict[str, TensorLocation] = {}
    for file in files:
        stages = _stages_in(file)
        if twice := tensors.keys() & stages.keys():
            raise ParitySetupError(f"{path} names two files with {min(twice)}: give the one that is meant")
        tensors |= stages
    return StageBundle(path, tensors, None)


def matching(bundle: StageBundle, source: str) -> StageBundle:
    """``bundle`` with the tensors alone whose names hold the regular expression ``source``.

    The hash of its components stays that of all of them: it tells that two such bundles have the same, and not that
    two have different ones.

    Raises:
        ParitySetupError: it is none, or nothing matches.
    """
    try:
        tensors = {key: at for key, at in bundle.tensors.items() if re.search(source, _parse(key)[0] or "")}
    except re.error as error:
        raise ParitySetupError(f"{source!r:.80} is no regular expression: {error}") from None
    if not tensors:
        raise ParitySetupError(f"{bundle.path} has no tensor whose name holds {source!r:.80}")
    names = {_parse(key)[0] for key in tensors}
    report = bundle.report
    if report is not None:
        report = replace(report, tensors=tuple(name for name in report.tensors if name in names))
    return StageBundle(bundle.path, tensors, report)


def _stages_in(file: Path) -> dict[str, TensorLocation]:
    tensors = {key: location for key, location in read_header(file).items() if parse_key(key)}
    if not tensors:
        raise ParitySetupError(f"{file} holds no stage: its tensors are named neither stage.* nor tensor.*")
    _require_floats(file, tensors)
    return tensors


def volume(reference: StageBundle, candidate: StageBundle) -> int:
    """How many numbers a comparison of the two goes through."""
    common = reference.tensors.keys() & candidate.tensors.keys()
    return sum(math.prod(reference.tensors[key].shape) for key in common)


def compare(
    reference: StageBundle,
    candidate: StageBundle,
    *,
    strict_bytes: bool = False,
    published: Mapping[str, str] = PUBLISHED,
    advance: Advance = in_silence,
) -> Comparison:
    """Check every stage that either side has; with ``strict_bytes`` also which ``published`` hashes each side meets.

    ``published`` names hashes of ``final_bf16``; a hash is bound to its components, and meeting none fails nothing.

    Raises:
        ParitySetupError: a side lacks a required stage of a tensor (with ``strict_bytes``, ``final_bf16`` too), or a
            tensor of the other.
    """
    keys = _ordered([*reference.tensors, *candidate.tensors])
    _require_all(keys, reference, candidate, strict_bytes)
    components = _relation(reference.report, candidate.report)
    align = components != "same"
    checks = (_check(key, reference.tensors.get(key), candidate.tensors.get(key), align, advance) for key in keys)
    dtype = reference.report.components_dtype if reference.report else None
    met = (_published_in(reference, published), _published_in(candidate, published)) if strict_bytes else None
    return Comparison(tuple(checks), components, strict_bytes, dtype, met)


def _published_in(side: StageBundle, published: Mapping[str, str]) -> tuple[str, ...]:
    finals = [(_parse(key), tensor) for key, tensor in side.tensors.items() if len(tensor.shape) == 2]
    hashes = {published_sha256(final, name) for (name, stage), final in finals if stage == Stage.FINAL_BF16}
    return tuple(sorted(published[digest] for digest in hashes & published.keys()))


def _check(
    key: str, reference: TensorLocation | None, candidate: TensorLocation | None, align: bool, advance: Advance
) -> Check:
    tensor, stage = _parse(key)
    shapes = [side.shape if side else None for side in (reference, candidate)]
    apart = None
    if reference and candidate and reference.shape == candidate.shape:
        turns = align and stage == Stage.U_SCALED and len(reference.shape) == 2
        apart = difference(reference, candidate, align=turns, advance=advance)
    same_dtype = bool(reference and candidate and reference.dtype == candidate.dtype)
    return Check(tensor, stage, LIMITS.get(stage, UNKNOWN), shapes[0], shapes[1], same_dtype, apart)


def _require_all(keys: Sequence[str], reference: StageBundle, candidate: StageBundle, strict_bytes: bool) -> None:
    needed = [stage for stage, limits in LIMITS.items() if limits.required] + [Stage.FINAL_BF16] * strict_bytes
    tensors = dict.fromkeys(_parse(key)[0] for key in keys)
    for side in (reference, candidate):
        wanted = [stage_key(stage, tensor) for tensor in tensors for stage in needed]
        if missing := [key for key in wanted if key not in side.tensors]:
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ParitySetupError(
                f"{side.path} lacks {shown}: both sides must hold the same tensors, each with every required stage; "
                "write both of all tensors, or both of the same one"
            )


def _require_floats(file: Path, tensors: Mapping[str, TensorLocation]) -> None:
    for key, location in tensors.items():
        if location.dtype not in STORED:
            raise ParitySetupError(f"{file}: stage {key} is {location.dtype}, not one of {', '.join(STORED)}")


def _relation(reference: StageReport | None, candidate: StageReport | None) -> Literal["same", "different", "unknown"]:
    if reference is None or candidate is None:
        return "unknown"
    if reference.tensors != candidate.tensors:
        raise ParitySetupError(
            f"the reference is of {', '.join(reference.tensors)}, and the candidate of {', '.join(candidate.tensors)}"
        )
    return "same" if reference.components == candidate.components else "different"


def _ordered(keys: Iterable[str]) -> list[str]:
    """Each name once: tensor after tensor as they come, each one's stages in the order in which they follow."""
    order = {str(stage): index for index, stage in enumerate(Stage)}
    parsed = {key: _parse(key) for key in keys}
    tensors = {tensor: index for index, tensor in enumerate(dict.fromkeys(tensor for tensor, _ in parsed.values()))}
    return sorted(parsed, key=lambda key: (tensors[parsed[key][0]], order.get(parsed[key][1], len(order)), key))


def _parse(key: str) -> tuple[str | None, str]:
    parsed = parse_key(key)
    if parsed is None:
        raise ValueError(f"{key!r} names no stage")
    return parsed
