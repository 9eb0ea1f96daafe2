"""An adapter applied to activations or merged into weights is one function, and models share what they can."""

from __future__ import annotations

import numpy as np
import pytest

from tools.nano.corpus import examples
from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.leases import ModelRegistry
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.router import Router

from .. import builders


def routed(execution: str, profile: str, count: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Slot and role of every transcript, and all logits [transcripts, 10]."""
    with load_router("nano", profile=profile, dtype="float32", execution=execution) as router:  # type: ignore[arg-type]
        decisions = router.route_many([example.messages for example in examples("heldout", count, seed=11)])
    logits = np.array([decision.logits.agent + decision.logits.role for decision in decisions])
    return [(decision.slot, int(decision.role)) for decision in decisions], logits


@pytest.mark.parametrize(
    ("profile", "count"),
    [
        ("cpu", 200),
        pytest.param("cpu", 1000, marks=pytest.mark.slow),
        pytest.param("mlx", 1000, marks=pytest.mark.slow),
    ],
)
def test_factored_and_merged_choose_alike(profile: str, count: int) -> None:
    choices, logits = routed("factored", profile, count)
    merged_choices, merged_logits = routed("merged", profile, count)
    assert choices == merged_choices
    assert builders.relative(merged_logits, logits) <= 1e-4
    assert not np.array_equal(merged_logits, logits)


@pytest.fixture(params=builders.BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lease(registry: ModelRegistry, backend: str, bundle: Bundle, base: Base, *, merged: bool = False):  # type: ignore[no-untyped-def]
    return registry.lease(
        load_backend(backend), base, bundle.adapter, bundle.head, device="cpu", dtype="float32", merged=merged
    )


def test_the_same_bundle_twice_is_one_model(backend_name: str) -> None:
    registry, bundle = ModelRegistry(), find_bundle("nano")
    assert bundle.base_folder is not None
    base = open_base(bundle.base_folder)
    first, second = (lease(registry, backend_name, bundle, base) for _ in range(2))
    assert first.value.model is second.value.model


def test_two_executions_are_two_models_on_one_base(backend_name: str) -> None:
    registry, bundle = ModelRegistry(), find_bundle("nano")
    assert bundle.base_folder is not None
    base = open_base(bundle.base_folder)
    factored = lease(registry, backend_name, bundle, base)
    merged = lease(registry, backend_name, bundle, base, merged=True)
    assert factored.value.model is not merged.value.model
    assert factored.value.base.value is merged.value.base.value
    assert merged.value.model.nbytes > factored.value.model.nbytes


def test_a_base_goes_when_no_model_needs_it(backend_name: str) -> None:
    registry, bundle = ModelRegistry(max_idle_bytes=0), find_bundle("nano")
    assert bundle.base_folder is not None
    base = open_base(bundle.base_folder)
    held = lease(registry, backend_name, bundle, base)
    first_base = held.value.base.value
    held.release()
    again = lease(registry, backend_name, bundle, base)
    assert again.value.base.value is not first_base


def test_routers_share_a_model_and_closing_one_leaves_the_other() -> None:
    with load_router("nano", profile="cpu") as first:
        second: Router = load_router("nano", profile="cpu")
        second.close()
        assert first.route(Transcript.of("What is 6 * 7?")).label == "mathematics"
