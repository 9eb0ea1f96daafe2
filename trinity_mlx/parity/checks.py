"""One stage of two bundles held against its limits, and what all of them together say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..factorization.stages import Stage
from .difference import Difference

SCHEMA = "trinity-mlx.parity.comparison"
VERSION = 1


class Limits(NamedTuple):
    """What two sides may differ by in one stage, by the published table, and whether the comparison depends on it."""

    max_abs: float
    mean_abs: float
    required: bool = True


LIMITS: Mapping[str, Limits] = {
    Stage.SOURCE: Limits(0.0, 0.0),
    Stage.OFFSETS: Limits(0.0, 0.0),
    Stage.SCALED_S: Limits(1e-6, 1e-8),
    Stage.NORMALIZATION: Limits(1e-6, 1e-6),
    Stage.U_SCALED: Limits(1e-6, 1e-8),
    Stage.PRE_NORM: Limits(1e-3, 1e-5),
    Stage.ZERO: Limits(1e-3, 1e-5),
    Stage.ADAPTED: Limits(1e-3, 1e-5),
    Stage.FINAL: Limits(1e-3, 1e-5),
    Stage.FINAL_BF16: Limits(1e-3, 1e-5, required=False),
}
UNKNOWN = Limits(1e-3, 1e-5, required=False)
"""For a stage of any other name."""


@dataclass(frozen=True)
class Check:
    """One stage of one tensor. ``difference`` is None where a side lacks it or the shapes differ."""

    tensor: str | None
    stage: str
    limits: Limits
    reference_shape: tuple[int, ...] | None
    candidate_shape: tuple[int, ...] | None
    same_dtype: bool
    difference: Difference | None

    @property
    def bytes_match(self) -> bool:
        """Whether both sides hold the very same bits."""
        return self.same_dtype and self.difference is not None and self.difference.differing == 0

    @property
    def within_limits(self) -> bool:
        """Whether both sides have the stage and differ by no more than its limits; NaN is beyond every limit."""
        apart = self.difference
        return apart is not None and apart.max_abs <= self.limits.max_abs and apart.mean_abs <= self.limits.mean_abs

    @property
    def passed(self) -> bool:
        """Whether this check lets the comparison pass."""
        return self.within_limits or not self.limits.required

    @property
    def strain(self) -> float:
        """How much of its limits a stage uses up: 0 for equal numbers, 1 at a limit, infinite where there is none."""
        apart = self.difference
        if apart is None or math.isnan(apart.max_abs):
            return math.inf
        pairs = ((apart.max_abs, self.limits.max_abs), (apart.mean_abs, self.limits.mean_abs))
        return max(far / limit if limit else math.inf * far if far else 0.0 for far, limit in pairs)

    @property
    def obstacle(self) -> str:
        """Why there is nothing to compare; empty where there is."""
        if self.reference_shape is None or self.candidate_shape is None:
            return f"missing in the {'reference' if self.reference_shape is None else 'candidate'}"
        return "" if self.difference else f"shapes {list(self.reference_shape)} and {list(self.candidate_shape)}"

    def to_dict(self) -> dict[str, Any]:
        """For a JSON report; what is not finite is null there."""
        apart = self.difference
        return {
            "tensor": self.tensor,
            "stage": self.stage,
            "required": self.limits.required,
            "passed": self.passed,
            "within_limits": self.within_limits,
            "max_abs": _finite(apart.max_abs) if apart else None,
            "mean_abs": _finite(apart.mean_abs) if apart else None,
            "limits": {"max_abs": self.limits.max_abs, "mean_abs": self.limits.mean_abs},
            "bytes_match": self.bytes_match,
            "differing_entries": apart.differing if apart else None,
            "columns_turned": apart.turned if apart else None,
            "reference_shape": self.reference_shape,
            "candidate_shape": self.candidate_shape,
        }


@dataclass(frozen=True)
class Comparison:
    """All checks of two bundles."""

    checks: tuple[Check, ...]
    components: Literal["same", "different", "unknown"]
    strict_bytes: bool
    reference_dtype: str | None = None
    """What the reference's components were computed in, where a report says so."""
    published_met: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Which published hashes the reference's and the candidate's bytes have; asked with ``strict_bytes`` alone."""

    @property
    def failed(self) -> list[Check]:
        """The checks that make the comparison fail."""
        return [check for check in self.checks if not check.passed or (self.strict_bytes and self._bytes_differ(check))]

    @property
    def passed(self) -> bool:
        """Whether every check that counts has passed."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """The JSON report (docs/parity.md)."""
        required = [check for check in self.checks if check.limits.required]
        stored = [check for check in self.checks if check.stage == Stage.FINAL_BF16]
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "passed": self.passed,
            "components": self.components,
            "strict_bytes": self.strict_bytes,
            "required": len(required),
            "required_failed": sum(not check.passed for check in required),
            "final_bf16": len(stored),
            "final_bf16_bytes_match": sum(check.bytes_match for check in stored),
            "published_hashes_met": self._published_met(),
            "checks": [check.to_dict() for check in self.checks],
        }

    def _published_met(self) -> dict[str, list[str]] | None:
        if self.published_met is None:
            return None
        reference, candidate = self.published_met
        return {"reference": list(reference), "candidate": list(candidate)}

    @staticmethod
    def _bytes_differ(check: Check) -> bool:
        return check.stage == Stage.FINAL_BF16 and not check.bytes_match


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
