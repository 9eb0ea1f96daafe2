"""What a training measures of a candidate is what a router with the sealed candidate says, on either backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders import PROFILES, make_base, relative
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.loading import load_router
from trinity_mlx.training.head import Head
from trinity_mlx.training.reading import Engine, Reading
from trinity_mlx.training.sealing import BaseIdentity, Learned, seal
from trinity_mlx.training.vector_layout import Layout

AGENTS, CANDIDATES = ("a", "b", "c", "d"), 3


@pytest.mark.parametrize("backend", PROFILES)
@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_each_candidate_is_routed_as_it_was_measured(backend: str, count: int, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    reading, engine, layout = Reading(base), Engine(load_backend(backend)), Layout.of(base)
    draw = np.random.default_rng(6)
    lengths, numbers = draw.integers(1, 4, count), draw.integers(1, 10**6, count)
    prompts = [f"What is {index} times {numbers[index]}? " * int(lengths[index]) for index in range(count)]
    features = engine.features(base, layout, reading.segments([Transcript.of(prompt) for prompt in prompts]))
    offsets = [
        {name: 0.1 * draw.normal(size=len(zero)) for name, zero in layout.zero().items() if name in layout.spectra}
        for _ in range(CANDIDATES)
    ]
    heads = [Head(draw.normal(size=(len(AGENTS) + 3, base.config.hidden_size))) for _ in range(CANDIDATES)]
    hidden = features.hidden(np.arange(count), layout.gains(*offsets))
    for index in range(CANDIDATES):
        folder = tmp_path / f"candidate-{index}"
        folder.mkdir()
        identity = BaseIdentity("test/tiny")
        learned = Learned(layout, offsets[index], heads[index])
        seal(folder, identity, learned, AGENTS, reading=reading, made={}, lineage={})
        expected = heads[index].logits(hidden[index].astype(np.float64))
        with load_router(folder, base.folder, PROFILES[backend], "float32") as router:
            decisions = router.route_many(prompts)
        found = np.array([decision.logits.row for decision in decisions])
        assert relative(found, expected) < 1e-5
        assert [decision.slot for decision in decisions] == expected[:, :-3].argmax(1).tolist()
        assert [int(decision.role) for decision in decisions] == expected[:, -3:].argmax(1).tolist()
