"""Heads that are not linear, and heads that read the last token: routed as an oracle in float64 says, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import numpy as numpy_files
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from trinity_mlx import Router, load_router
from trinity_mlx.artifacts.bundle import ADAPTER_FILE, ELU_TENSOR, HEAD_FILE, HEAD_TENSOR, BundleDraft, seal_bundle
from trinity_mlx.contracts.artifact import Base, Bundle, ReadPosition
from trinity_mlx.contracts.transcript import Transcript

from ..builders import LABELS, PROFILES, factored, make_offsets, relative, replaced

EXACT = 1e-5
RANK, ALPHA = 12, 0.1
TURNS = [
    {"role": "user", "content": "What is 17 + 25?"},
    {"role": "assistant", "content": "The answer is 42."},
    {"role": "user", "content": "And twice that?"},
    {"role": "assistant", "content": "ACCEPT: it holds, and twice that is 84."},
]
TALKS = [TURNS[:count] for count in (1, 2, 3, 4)] + [[{"role": "user", "content": "x"}]]


def low_rank(hidden: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random matrices whose activations are on both sides of zero."""
    draw = np.random.default_rng(3)
    return (
        draw.normal(0.0, 0.3, (RANK, hidden)).astype(np.float32),
        draw.normal(0.0, 1.0, (len(LABELS) + 3, RANK)).astype(np.float32),
    )


def sealed(folder: Path, base: Base, position: ReadPosition) -> Bundle:
    """A bundle made by hand, without the trainer: an adapter, and the two matrices of a low-rank head."""
    folder.mkdir(parents=True)
    changes = factored(base, make_offsets(base))
    numpy_files.save_file(
        {name: np.ascontiguousarray(matrix, np.float32) for name, (_, matrix) in changes.items()},
        folder / ADAPTER_FILE,
    )
    first, second = low_rank(base.config.hidden_size)
    numpy_files.save_file({ELU_TENSOR: first, HEAD_TENSOR: second}, folder / HEAD_FILE)
    executions = {name: execution for name, (execution, _) in changes.items()}
    draft = BundleDraft("low-rank", "test/tiny", base.ref, LABELS, executions, alpha=ALPHA, read_position=position)
    return seal_bundle(folder, draft)


class Oracle:
    """transformers' model with the adapted weights, its last hidden states, and the head's formula in float64."""

    def __init__(self, base: Base, position: ReadPosition) -> None:
        self._model = Qwen3ForCausalLM.from_pretrained(base.folder, dtype=torch.float64).eval()
        with torch.no_grad():
            for name, (_, weight) in replaced(base, make_offsets(base)).items():
                self._model.get_parameter(name).copy_(torch.from_numpy(weight))
        self._tokenizer = Tokenizer.from_file(str(base.tokenizer))
        self._last = position is ReadPosition.LAST
        self._first, self._second = (matrix.astype(np.float64) for matrix in low_rank(base.config.hidden_size))

    @torch.inference_mode()
    def logits(self, talk: list[dict[str, str]]) -> np.ndarray:
        tokens = self._tokenizer.encode("\n".join(f"{turn['role']}: {turn['content']}" for turn in talk)).ids
        states = self._model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
        hidden = (states[:, -1] if self._last else states[:, max(len(tokens) - 2, 0)])[0].numpy()
        inner = self._first @ hidden
        assert (inner < 0).any()
        assert (inner > 0).any()
        return self._second @ np.where(inner > 0, inner, ALPHA * (np.exp(inner) - 1.0))


@pytest.fixture(scope="module", params=list(ReadPosition), ids=str)
def position(request: pytest.FixtureRequest) -> ReadPosition:
    return ReadPosition(request.param)


@pytest.fixture(scope="module")
def oracle(tiny_base: Base, position: ReadPosition) -> Oracle:
    return Oracle(tiny_base, position)


@pytest.fixture(scope="module")
def folder(tiny_base: Base, position: ReadPosition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed(tmp_path_factory.mktemp("heads") / "low-rank", tiny_base, position).folder


@pytest.fixture(params=list(PROFILES.values()))
def router(request: pytest.FixtureRequest, folder: Path, tiny_base: Base) -> Iterator[Router]:
    with load_router(folder, tiny_base.folder, profile=request.param, dtype="float32") as router:
        yield router


def test_each_transcript_alone(router: Router, oracle: Oracle) -> None:
    for talk in TALKS:
        router.forget()
        assert relative(router.route(talk).logits.row, oracle.logits(talk)) <= EXACT


def test_a_batch(router: Router, oracle: Oracle) -> None:
    for talk, decision in zip(TALKS, router.route_many(TALKS), strict=True):
        assert relative(decision.logits.row, oracle.logits(talk)) <= EXACT


def test_a_conversation_that_goes_on_reads_new_tokens_alone(router: Router, oracle: Oracle) -> None:
    router.forget()
    decisions = [router.route(TURNS[:count]) for count in range(1, len(TURNS) + 1)]
    for count, decision in enumerate(decisions, 1):
        assert relative(decision.logits.row, oracle.logits(TURNS[:count])) <= EXACT
    assert all(later.reused_tokens >= earlier.token_count - 2 for earlier, later in pairwise(decisions))


def test_a_transcript_that_is_a_beginning_of_what_was_read(router: Router, oracle: Oracle) -> None:
    router.forget()
    router.route(TURNS)
    assert relative(router.route(TURNS[:3]).logits.row, oracle.logits(TURNS[:3])) <= EXACT


def test_positions_share_a_base_and_nothing_else(tiny_base: Base, tmp_path: Path) -> None:
    bundles = [sealed(tmp_path / position, tiny_base, position) for position in ReadPosition]
    assert bundles[0].adapter == replace(
        bundles[0].adapter, ref=bundles[1].adapter.ref
    )  # the same change, and so the same content address
    assert bundles[0].head.ref != bundles[1].head.ref
    routers = [load_router(bundle.folder, tiny_base.folder, profile="cpu", dtype="float32") for bundle in bundles]
    rows = [router.route(TURNS).logits.row for router in routers]
    for router in routers:
        router.close()
    for row, position in zip(rows, ReadPosition, strict=True):
        assert relative(row, Oracle(tiny_base, position).logits(TURNS)) <= EXACT


def test_hidden_values_are_those_at_the_position(tiny_base: Base, tmp_path: Path) -> None:
    bundle = sealed(tmp_path / "last", tiny_base, ReadPosition.LAST)
    first, second = low_rank(tiny_base.config.hidden_size)
    with load_router(bundle.folder, tiny_base.folder, profile="cpu", dtype="float32") as router:
        inner = np.array(router.values([TURNS])[0]) @ first.T.astype(np.float64)
        found = np.where(inner > 0, inner, ALPHA * np.expm1(inner)) @ second.T.astype(np.float64)
        assert relative(router.route(Transcript.of(TURNS)).logits.row, found) <= EXACT
