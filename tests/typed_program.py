"""A program that uses the package as people do, for mypy alone: nothing here is run."""

from __future__ import annotations

import os
from typing import assert_type

import trinity_mlx
from trinity_mlx.errors import BundleInvalid, CircuitOpen


def routed(prompt: str) -> str:
    with trinity_mlx.load_router(profile="cpu") as router:
        decision = router.route(prompt, allow_slots=[0, 1])
        assert_type(decision, trinity_mlx.RouteDecision)
        assert_type(decision.role, trinity_mlx.Role)
        assert_type(decision.margins.agent, float | None)
        return decision.label


def answered(task: str) -> str | None:
    router = trinity_mlx.load_router()
    policy = trinity_mlx.Policy.named("default").with_options(sticky_margin=0.5)
    limits = trinity_mlx.Limits(cost_usd=0.05)
    with trinity_mlx.Coordinator(router, pool="demo", policy=policy, limits=limits, environment=os.environ) as team:
        result = team.run(task)
        assert_type(result, trinity_mlx.RunResult)
        assert_type(result.cost_usd, float | None)
        return None if result.status is trinity_mlx.RunStatus.FAILED else result.answer


def caught(error: trinity_mlx.TrinityError) -> int:
    if isinstance(error, BundleInvalid | CircuitOpen | trinity_mlx.UsageError):
        assert_type(error.exit_code, int)
    return error.exit_code
