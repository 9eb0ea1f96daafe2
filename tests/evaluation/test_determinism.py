"""Settings for the same bits every time: set while bits are compared, and recorded with what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trinity_mlx.evaluation.certify import NO_FLOORS, certify
from trinity_mlx.evaluation.determinism import reproducing
from trinity_mlx.evaluation.gates import Gates, evaluate
from trinity_mlx.routing.loading import load_router

from ..evaluation_cases import few, nano_source


class Settable:
    """A backend with one setting, for a device of its own."""

    def __init__(self) -> None:
        self.inside: list[str] = []

    @contextmanager
    def reproducing(self, device: str) -> Iterator[dict[str, str]]:
        self.inside.append(device)
        yield {"order of sums": "fixed"}
        self.inside.append("left")


def test_the_backend_of_a_profile_is_asked_and_let_go() -> None:
    backend: Any = Settable()
    with (
        load_router("nano", profile="cpu") as router,
        reproducing(router.identity, load=lambda name: backend) as settings,
    ):
        assert settings == {"order of sums": "fixed"}
        assert backend.inside == ["cpu"]
    assert backend.inside == ["cpu", "left"]


def test_a_backend_without_such_a_choice_sets_nothing() -> None:
    backend: Any = object()
    with (
        load_router("nano", profile="cpu") as router,
        reproducing(router.identity, load=lambda name: backend) as settings,
    ):
        assert settings == {}


def test_what_was_set_is_recorded_with_the_lane() -> None:
    with load_router("nano", profile="cpu") as router:
        assert evaluate(router, few(1), Gates(NO_FLOORS)).environment["determinism"] == {}
    certificate = certify(nano_source("cpu"), few(1), runs=1, processes=0, floor_ratio=0.8, provenance={})
    assert certificate.lane is not None
    assert certificate.lane.provenance["determinism"] == {}
