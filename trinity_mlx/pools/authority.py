"""Governed runs: one JSON file states under whose authority a run happens, with which pool and within which limits.

    {"authority_ref": "...", "workflow_ref": "...", "runtime_ref": "...", "provider_pool_ref": "...",
     "credential_ref": "...", "pool": {"name": "...", "agents": [...]}, "limits": {"provider_calls": 10}}

The pool has the shape of a pool's TOML file (``pools.py``). Its keys are ``file:`` references: a governed run reads
none from the environment. ``limits`` may be empty; its names are those of ``rules.budgets.Limits``. With
``"review": "ask"`` a person has to release every answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from ..contracts.errors import AuthorityInvalid, PoolInvalid, UsageError
from ..contracts.pool import Pool
from ..files.models import Faults, Strict, read_model
from ..providers.registry import row_of
from ..rules.budgets import Limits
from .files import parse_pool

REFS = ("authority_ref", "workflow_ref", "runtime_ref", "provider_pool_ref", "credential_ref")
_Ref = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _File(Strict):
    authority_ref: _Ref
    workflow_ref: _Ref
    runtime_ref: _Ref
    provider_pool_ref: _Ref
    credential_ref: _Ref
    pool: dict[str, Any]
    limits: dict[str, float | int] = Field(default_factory=dict)
    review: Literal["none", "ask"] = "none"


@dataclass(frozen=True, slots=True)
class Authority:
    """What a governed run may use; ``refs`` goes into every event of its trace.

    ``needs_review`` says that a person has to release every answer.
    """

    refs: Mapping[str, str]
    pool: Pool
    limits: Limits
    needs_review: bool = False


def read_authority(path: Path) -> Authority:
    """The authority in a file; relative paths in its pool are taken from the file's folder.

    Raises:
        AuthorityInvalid: the file cannot be read, a reference is missing, or its pool or limits do not hold up.
    """
    document, _ = read_model(path, _File, Faults(AuthorityInvalid))
    try:
        pool = parse_pool(document.pool, f"{path}: pool", path.parent)
        limits = _limits(path, document.limits)
    except PoolInvalid as error:
        raise AuthorityInvalid(str(error)) from None
    for agent in pool.agents:
        if agent.api_key and agent.api_key.startswith("env:"):
            raise AuthorityInvalid(
                f"{path}: agent {agent.name!r} takes its key from the environment, which a governed run does not "
                "read: give a file: reference"
            )
        if row_of(agent.provider).reads_environment:
            raise AuthorityInvalid(
                f"{path}: agent {agent.name!r} uses {agent.provider}, whose packages may read credentials from the "
                "environment, which a governed run does not: give openai-compatible or anthropic"
            )
    refs = {name: getattr(document, name) for name in REFS}
    return Authority(refs, pool, limits, needs_review=document.review == "ask")


def _limits(path: Path, values: Mapping[str, Any]) -> Limits:
    unknown = sorted(set(values) - set(Limits.__dataclass_fields__))
    if unknown:
        raise AuthorityInvalid(
            f"{path}: limits: no limit {unknown[0]!r}: there are {', '.join(Limits.__dataclass_fields__)}"
        )
    try:
        return Limits(**values)
    except (UsageError, OverflowError) as error:
        raise AuthorityInvalid(f"{path}: limits: {error}") from None
