"""Trunks are read once, kept by content, and never taken for another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.builders import make_base, relative, source_tensor, svf_in_float64
from trinity_mlx.contracts.backend import Pull, Segment
from trinity_mlx.contracts.errors import UsageError
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.training.descent import cross_entropy, soft_targets
from trinity_mlx.training.features import Features, TrunkStore
from trinity_mlx.training.head import Head
from trinity_mlx.training.heads import head_kind
from trinity_mlx.training.reading import Engine, base_hidden
from trinity_mlx.training.vector_layout import Layout, Offsets


class Counting:
    """A population whose trunk is its tokens, and which counts what it is asked to read."""

    first_layer = 1

    def __init__(self) -> None:
        self.read: list[Segment] = []
        self.readings = 0

    def trunk(self, segments: Sequence[Segment]) -> np.ndarray:
        self.read.extend(segments)
        return np.array([[token] for segment in segments for token in segment.tokens], dtype=np.float32)

    def hidden(self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray]) -> np.ndarray:
        self.readings += 1
        ends = np.cumsum([len(segment.tokens) for segment in segments]) - 1
        return np.stack([trunk[ends] * row[0] for row in gains["w"]])

    def pullback(
        self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray], pull: Pull
    ) -> dict[str, np.ndarray]:
        ends = np.cumsum([len(segment.tokens) for segment in segments]) - 1
        slope = pull(trunk[ends] * gains["w"][0])
        return {"w": np.array([(slope * trunk[ends]).sum()])}


SEGMENTS = [Segment((3,)), Segment((5, 7)), Segment((3,)), Segment(tuple(range(3000))), Segment((2, 9))]


@pytest.mark.parametrize("memory", [1 << 20, 0])
def test_what_is_shared_is_read_once_in_memory_or_on_disk(memory: int, tmp_path: Path) -> None:
    population = Counting()
    features = Features(population, SEGMENTS, TrunkStore(tmp_path, "key", memory))
    rows, gains = np.array([4, 0, 1, 3]), {"w": np.array([[1.0], [2.0]])}
    first, again = features.hidden(rows, gains), features.hidden(rows, gains)
    assert np.array_equal(first, again)
    assert first[:, :, 0].tolist() == [[9, 3, 7, 2999], [18, 6, 14, 5998]]
    assert len(population.read) == 4
    if not memory:
        other = Counting()
        kept = Features(other, SEGMENTS, TrunkStore(tmp_path, "key", memory)).hidden(rows, gains)
        assert np.array_equal(kept, first)
        assert other.read == []


def test_another_base_s_trunk_or_a_broken_one_is_read_anew(tmp_path: Path) -> None:
    rows, gains = np.array([1]), {"w": np.array([[1.0]])}
    Features(Counting(), SEGMENTS, TrunkStore(tmp_path, "key", 0)).hidden(rows, gains)
    other = Counting()
    Features(other, SEGMENTS, TrunkStore(tmp_path, "another", 0)).hidden(rows, gains)
    assert len(other.read) == 1
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(b"broken")
    broken = Counting()
    assert Features(broken, SEGMENTS, TrunkStore(tmp_path, "key", 0)).hidden(rows, gains)[0, 0, 0] == 7
    assert len(broken.read) == 1


def test_what_one_candidate_reads_is_read_once_for_all_stages() -> None:
    population = Counting()
    features = Features(population, SEGMENTS, TrunkStore(None, "key"))
    rows, told = np.array([1, 3]), list[int]()
    first = features.hidden(rows, {"w": np.array([[2.0]])})
    first_reading, first[:] = first.copy(), 0.0
    assert np.array_equal(features.hidden(rows, {"w": np.array([[2.0]])}, told.append), first_reading)
    assert (population.readings, told) == (1, [2])
    for others, gain in ((rows, 3.0), (rows[::-1], 2.0), (rows[:1], 2.0)):
        assert features.hidden(others, {"w": np.array([[gain]])}).shape == (1, len(others), 1)
    assert population.readings == 4


def test_slopes_are_summed_over_batches() -> None:
    features = Features(Counting(), SEGMENTS, TrunkStore(None, "key"))
    found = features.pullback(np.array([1, 3, 4]), {"w": np.array([2.0])}, lambda hidden, batch: np.ones_like(hidden))
    assert found["w"].tolist() == [7 + 2999 + 9]


def test_offsets_slopes_are_those_of_their_gains(tmp_path: Path) -> None:
    layout = Layout.of(make_base(tmp_path))
    draw = np.random.default_rng(0)
    offsets = {name: draw.normal(0, 0.2, len(each.singular)) for name, each in layout.spectra.items()}
    weights = {name: draw.normal(size=len(values)) for name, values in offsets.items()}
    found = layout.offset_slopes(offsets, weights)
    name = next(iter(offsets))

    def loss(values: np.ndarray) -> float:
        return float(layout.gains({**offsets, name: values})[name][0] @ weights[name])

    for index in (0, 5, -1):
        step = np.zeros_like(offsets[name])
        step[index] = 1e-6
        numeric = (loss(offsets[name] + step) - loss(offsets[name] - step)) / 2e-6
        assert found[name][index] == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_gains_mean_what_the_definition_says(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    layout = Layout.of(base)
    name = next(iter(layout.spectra))
    offsets = {**layout.zero(), name: np.random.default_rng(1).normal(0, 0.3, len(layout.zero()[name]))}
    vectors, gains = layout.spectra[name].vectors, layout.gains(offsets)[name][0]
    weight = source_tensor(base, name).astype(np.float64)
    assert weight.shape[0] >= weight.shape[1]
    adapted = weight @ (vectors * gains) @ vectors.T
    assert relative(adapted, svf_in_float64(weight, offsets[name])) < 1e-6


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    for layers in ((3,), (1, 1), (-1,)):
        with pytest.raises(UsageError, match="layers 0 to 2"):
            Layout.of(base, layers)


def test_hidden_vectors_are_kept_by_content(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    engine, layout = Engine(load_backend("torch"), cache=tmp_path / "cache"), Layout.of(base)
    segments = [Segment((5, 6, 7)), Segment((8,))]
    first = base_hidden(engine.features(base, layout, segments), layout, engine, base)
    counting = Features(Counting(), segments, TrunkStore(None, ""))
    assert np.array_equal(base_hidden(counting, layout, engine, base), first)
    other = base_hidden(engine.features(base, layout, segments[:1]), layout, engine, base)
    assert relative(other, first[:1]) < 1e-5


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("head", ["linear", "low-rank"])
def test_a_descent_s_slopes_are_those_of_its_loss_through_base_and_head(
    head: str, backend: str, tmp_path: Path
) -> None:
    """Along a direction at random, against differences: for offsets through a backend, for a head in closed form."""
    base, draw = make_base(tmp_path), np.random.default_rng(3)
    layout = Layout.of(base)
    segments = [Segment(tuple(draw.integers(0, 300, length).tolist())) for length in (5, 9, 7)]
    features = Engine(load_backend(backend)).features(base, layout, segments)
    rows, aim = np.arange(3), soft_targets(draw.random((3, 4)), 0.3)
    kind = head_kind(head, rank=6, length=8.0)
    numbers = draw.normal(size=kind.size(4, 64)) / 8.0
    offsets = {name: draw.normal(0, 0.2, len(each.singular)) for name, each in layout.spectra.items()}
    aside = {name: draw.normal(0, 0.2, len(values)) for name, values in offsets.items()}
    about = draw.normal(size=numbers.shape) / 8.0

    def at(step: float) -> tuple[Offsets, Head]:
        moved = {name: values + step * aside[name] for name, values in offsets.items()}
        return moved, kind.head(numbers + step * about, 4, 64)

    def loss(step: float) -> float:
        moved, now = at(step)
        return cross_entropy(now.logits(features.hidden(rows, layout.gains(moved))[0].astype(np.float64)), aim)[0]

    _, now = at(0.0)
    hidden = features.hidden(rows, layout.gains(offsets))[0].astype(np.float64)
    _, slope = cross_entropy(now.logits(hidden), aim)
    gains = {name: values[0] for name, values in layout.gains(offsets).items()}
    pulled = features.pullback(rows, gains, lambda vectors, batch: now.pulled(slope[batch], vectors.astype(np.float64)))
    at_offsets = layout.offset_slopes(offsets, pulled)
    found = sum(float(at_offsets[name] @ aside[name]) for name in offsets)
    found += float(kind.pulled(slope, hidden, numbers) @ about)
    assert found == pytest.approx((loss(2e-3) - loss(-2e-3)) / 4e-3, rel=5e-3, abs=1e-4)
