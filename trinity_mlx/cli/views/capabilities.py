"""What a backend can do on a device, as a record for programs and a line for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..sizes import readable

if TYPE_CHECKING:
    from ...contracts.backend import Capabilities

EMBEDDING = (151_936, 1024)
"""The largest tensor of the published router's base, for sizes that say something."""


def record(told: Capabilities) -> dict[str, Any]:
    """All that was told, and what decomposing the published base's embedding takes at its peak, in bytes."""
    return asdict(told) | {"decomposition_bytes": _decomposition_bytes(told)}


def line(told: Capabilities) -> str:
    """The same in words."""
    bits = " or ".join(map(str, told.quantize))
    parts = [
        f"{told.decomposition} decomposition ({readable(_decomposition_bytes(told)['svd'])} for the embedding of "
        f"Qwen3-0.6B, {readable(_decomposition_bytes(told)['gram'])} by gram)",
        f"weights in {bits} bits" if bits else "no quantised weights",
        "float64" if told.float64 else "no float64",
        f"{' and '.join(told.kernels)} kernels",
        "evaluates populations" if told.population else "no populations",
    ]
    if told.batch_tokens:
        parts.append(f"batches of about {told.batch_tokens} tokens")
    if told.memory_bytes:
        parts.append(f"{readable(told.memory_bytes)} of its own memory")
    return ", ".join(parts)


def _decomposition_bytes(told: Capabilities) -> dict[str, int]:
    from ...export.plan import peak_bytes

    peak = peak_bytes(EMBEDDING, "BF16")
    return {"svd": peak.thin if told.decomposition == "thin" else peak.full, "gram": peak.gram}
