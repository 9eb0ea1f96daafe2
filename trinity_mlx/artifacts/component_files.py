"""The component export of the Python tools: what its files, its tensors and its manifest are called."""

from __future__ import annotations

import re

MANIFEST = "trinity_sakana_export_manifest.json"
COMPONENTS = "trinity_svf_components.safetensors"
OFFSETS = "trinity_svf_scale_offsets.safetensors"
HEAD = "trinity_router_head.safetensors"
HEAD_TENSOR = "trinity.router_head.linear.weight"
FORMAT = "trinity_sakana_safetensors_export"
VERSION = 1


def component_key(part: str, source: str) -> str:
    """The key of ``U``, ``S`` or ``V`` of a source."""
    return f"svd.{part}.{safe_name(source)}"


def offsets_key(source: str) -> str:
    """The key of a source's offsets."""
    return f"svf.scale_offsets.{safe_name(source)}"


def safe_name(source: str) -> str:
    """A tensor's name as the export's keys spell it: ``/`` and other unsafe characters become ``__``."""
    return re.sub(r"[^0-9A-Za-z._-]", "__", source)
