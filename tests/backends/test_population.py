"""Candidates on a shared beginning, against bundles made, sealed and loaded one by one, and against autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call
from transformers import Qwen3ForCausalLM

from tests.builders import (
    BACKENDS,
    EMBEDDING,
    adapted_names,
    conversation_tokens,
    cpu_model,
    factored,
    fresh,
    hidden,
    load,
    make_base,
    make_head,
    make_offsets,
    relative,
    source_tensor,
    worst,
    write_bundle,
)
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.backend import PopulatedBase, Population, Variant
from trinity_mlx.contracts.errors import UsageError
from trinity_mlx.factorization.gram import Spectrum, gram_matrix, spectrum_of
from trinity_mlx.factorization.svf import gains
from trinity_mlx.profiles.backends import load_backend

WITH_EMBEDDING = pytest.mark.parametrize("embedding", [False, True], ids=["layers alone", "with the embedding"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


def _spectra(base: Base, embedding: bool) -> dict[str, Spectrum]:
    names = [name for name in adapted_names(base) if embedding or name != EMBEDDING]
    return {name: spectrum_of(gram_matrix(source_tensor(base, name))) for name in names}


def _population(name: str, base: Base, spectra: dict[str, Spectrum]) -> Population:
    loaded = load(load_backend(name), base)
    assert isinstance(loaded, PopulatedBase)
    return loaded.population({tensor: spectrum.vectors for tensor, spectrum in spectra.items()})


def _gains(spectra: dict[str, Spectrum], offsets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: gains(spectrum.singular, offsets[name]) for name, spectrum in spectra.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@WITH_EMBEDDING
def test_each_candidate_reads_as_its_own_bundle_does(backend: str, embedding: bool, base: Base, tmp_path: Path) -> None:
    spectra, head = _spectra(base, embedding), make_head(base)
    candidates = [
        {name: values for name, values in make_offsets(base, seed).items() if name in spectra} for seed in range(3)
    ]
    population = _population(backend, base, spectra)
    segments = fresh(*conversation_tokens(base.tokenizer, 8, 50))
    rows = [_gains(spectra, offsets) for offsets in candidates]
    stacked = {name: np.stack([row[name] for row in rows]) for name in spectra}
    vectors = population.hidden(segments, population.trunk(segments), stacked)
    for index, offsets in enumerate(candidates):
        bundle = write_bundle(tmp_path / str(index), base, factored(base, offsets), head)
        expected = hidden(cpu_model(backend, base, bundle), *segments)
        assert worst(vectors[index], expected) < 1e-5
        assert ((vectors[index] @ head.T)[:, :-3].argmax(1) == (expected @ head.T)[:, :-3].argmax(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_transcripts_are_routed_alike(backend: str, base: Base, tmp_path: Path) -> None:
    spectra, head = _spectra(base, False), make_head(base)
    offsets = {name: values for name, values in make_offsets(base).items() if name in spectra}
    bundle = write_bundle(tmp_path / "bundle", base, factored(base, offsets), head)
    model, population = cpu_model(backend, base, bundle), _population(backend, base, spectra)
    row = {name: each[None] for name, each in _gains(spectra, offsets).items()}
    for start in range(0, 1000, 50):
        segments = fresh(*conversation_tokens(base.tokenizer, 1000, 120)[start : start + 50])
        ours = population.hidden(segments, population.trunk(segments), row)[0] @ head.T
        theirs = hidden(model, *segments) @ head.T
        assert (ours[:, :-3].argmax(1) == theirs[:, :-3].argmax(1)).all()
        assert (ours[:, -3:].argmax(1) == theirs[:, -3:].argmax(1)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@WITH_EMBEDDING
def test_gradients_are_those_of_autograd_through_transformers(backend: str, embedding: bool, base: Base) -> None:
    spectra = _spectra(base, embedding)
    offsets = {name: values for name, values in make_offsets(base).items() if name in spectra}
    rows, sequences = _gains(spectra, offsets), conversation_tokens(base.tokenizer, 5, 30)
    slope = np.random.default_rng(3).normal(size=(5, base.config.hidden_size)).astype(np.float32)
    population, segments = _population(backend, base, spectra), fresh(*sequences)
    found = population.pullback(segments, population.trunk(segments), rows, lambda _: slope)
    expected = _autograd(base, spectra, rows, sequences, slope)
    for name in spectra:
        assert relative(found[name], expected[name]) < 1e-4, name


def _autograd(
    base: Base,
    spectra: dict[str, Spectrum],
    rows: dict[str, np.ndarray],
    sequences: list[tuple[int, ...]],
    slope: np.ndarray,
) -> dict[str, np.ndarray]:
    """The same gradient by transformers' model in float64, whose matrices are made from the gains."""
    model = Qwen3ForCausalLM.from_pretrained(base.folder, dtype=torch.float64).eval()
    leaves = {name: torch.tensor(row, requires_grad=True) for name, row in rows.items()}
    weights = {name: _adapted(source_tensor(base, name), spectra[name].vectors, leaf) for name, leaf in leaves.items()}
    parameters = {name: weight.detach() for name, weight in model.model.named_parameters()}
    parameters |= {name.removeprefix("model."): weight for name, weight in weights.items()}
    last = [
        functional_call(model.model, parameters, (torch.tensor([list(tokens)]),)).last_hidden_state[0, -1]
        for tokens in sequences
    ]
    loss = (torch.stack(last) * torch.from_numpy(slope).double()).sum()
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    return {name: each.numpy() for name, each in zip(leaves, slopes, strict=True)}


def _adapted(weight: np.ndarray, vectors: np.ndarray, row: torch.Tensor) -> torch.Tensor:
    source, columns = torch.from_numpy(weight).double(), torch.from_numpy(vectors.copy())
    change = (columns * row) @ columns.T
    return source @ change if source.shape[0] >= source.shape[1] else change @ source


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loss_is_asked_once_and_sees_the_candidate_as_it_reads(backend: str, base: Base) -> None:
    spectra = _spectra(base, False)
    offsets = {name: values for name, values in make_offsets(base).items() if name in spectra}
    rows, segments = _gains(spectra, offsets), fresh((5, 6, 7), (8,))
    population, seen = _population(backend, base, spectra), []
    trunk = population.trunk(segments)

    def pull(vectors: np.ndarray) -> np.ndarray:
        seen.append(vectors)
        return np.zeros_like(vectors)

    slopes = population.pullback(segments, trunk, rows, pull)
    alone = population.hidden(segments, trunk, {name: row[None] for name, row in rows.items()})[0]
    assert len(seen) == 1
    assert relative(seen[0], alone) < 1e-6
    assert all(not slope.any() and slope.shape == rows[name].shape for name, slope in slopes.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quantised_base_has_no_candidates(backend: str, tmp_path: Path) -> None:
    base = make_base(tmp_path, intermediate_size=128)
    loaded = load_backend(backend).load_base(base, device="cpu", dtype="float32", variant=Variant(quantize=8))
    assert isinstance(loaded, PopulatedBase)
    with pytest.raises(UsageError, match="quantis"):
        loaded.population({})
