"""The architecture of Qwen3-0.6B at full size with seeded random weights, against transformers in float32."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import check_fit, open_bundle
from trinity_mlx.cli.main import main
from trinity_mlx.contracts.artifact import Base, Bundle, Execution
from trinity_mlx.contracts.backend import LoadedBase, RoutingModel, Segment
from trinity_mlx.files.shipped import data_path
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.reader import needed_tokens

from .. import builders
from ..builders import fresh, hidden, relative, worst

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
FULL = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "initializer_range": 0.02,
}
LENGTHS = (2, 30, 120)


@dataclass(frozen=True)
class FullSize:
    """A base and a bundle on it, with the oracle's hidden vector for each of ``sequences``."""

    base: Base
    bundle: Bundle
    sequences: list[tuple[int, ...]]
    plain: np.ndarray
    adapted: np.ndarray


@pytest.fixture(scope="module", autouse=True)
def all_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, all_cores: None) -> FullSize:
    folder = tmp_path_factory.mktemp("full")
    base = builders.make_base(folder / "base", dtype=torch.bfloat16, **FULL)
    bundle = builders.write_bundle(folder / "bundle", base, random_factors(base), builders.make_head(base))
    check_fit(bundle, base)
    draw = np.random.default_rng(6)
    sequences = [tuple(draw.integers(0, FULL["vocab_size"], length).tolist()) for length in LENGTHS]
    plain = oracle_vectors(builders.PlainRecipe(base.folder), sequences)
    adapted = oracle_vectors(builders.BundleOracle(bundle, base), sequences)
    return FullSize(base, bundle, sequences, plain, adapted)


@pytest.fixture(scope="module", params=builders.BACKENDS)
def loaded(request: pytest.FixtureRequest, full: FullSize) -> Iterator[LoadedBase]:
    yield builders.load(load_backend(request.param), full.base)
    gc.collect()


def test_hidden_vectors_are_those_of_transformers(loaded: LoadedBase, full: FullSize) -> None:
    model = loaded.attach(None, full.bundle.head)
    assert worst(vectors(model, full.sequences), full.plain) <= TOLERANCE


def test_adapted_hidden_vectors_are_those_of_transformers(loaded: LoadedBase, full: FullSize) -> None:
    model = loaded.attach(full.bundle.adapter, full.bundle.head)
    found = vectors(model, full.sequences[:2])
    assert worst(found, full.adapted[:2]) <= TOLERANCE
    assert all(relative(*pair) > 0.01 for pair in zip(found, full.plain[:2], strict=True))


def test_reading_in_steps_equals_reading_at_once_on_torch(full: FullSize) -> None:
    model = builders.cpu_model("torch", full.base, full.bundle)
    tokens = full.sequences[-1]
    segment = Segment(tokens[:40])
    for end in (41, 90, len(tokens) - 1):
        past = builders.kept(model, segment)[0]
        segment = Segment(tokens[:end], past, past.length)
    continued = hidden(model, segment)[0]
    assert relative(continued, hidden(model, *fresh(tokens[:-1]))[0]) <= 1e-5
    assert relative(continued, full.adapted[-1]) <= TOLERANCE


def test_size_is_that_of_the_published_model(full: FullSize) -> None:
    count = sum(int(np.prod(shape)) for shape in full.base.config.backbone_shapes().values())
    assert count == 596_049_920


def test_a_published_suite_runs_on_the_full_size_with_the_published_token_counts(
    full: FullSize, qwen_file: Path, tmp_path: Path
) -> None:
    """Random weights decide otherwise than the published ones, and read the same tokens: so nothing is asserted."""
    folder = tmp_path / "base"
    folder.mkdir()
    for file in full.base.folder.iterdir():
        (folder / file.name).symlink_to(qwen_file if file.name == "tokenizer.json" else file)
    bundle = builders.write_bundle(tmp_path / "bundle", open_base(folder), {}, builders.make_head(full.base))
    suite = json.loads(data_path("fixtures", "suites", "seed-12.json").read_text(encoding="utf-8"))
    recorded = [public_record(case) for case in suite["cases"]]
    snapshot = tmp_path / "qwen_router_prompt_eval_logits.json"
    snapshot.write_text(json.dumps({"schema_version": 1, "cases": recorded}), encoding="utf-8")
    command = ["eval", "--artifact", str(bundle.folder), "--base", str(folder), "--profile", "cpu", "--no-assert"]
    result = CliRunner().invoke(main, [*command, "--suite", "seed-12", "--snapshot", str(snapshot), "--json"])
    assert result.exit_code == 0, result.output
    cases = json.loads(result.stdout)["cases"]
    assert [case["token_count"] for case in cases] == [case["router_input_tokens"] for case in suite["cases"]]
    assert not [reason for case in cases for reason in case["reasons"] if "token count" in reason]


def public_record(case: dict[str, Any]) -> dict[str, Any]:
    """A published case as an entry of the public snapshot; its logits are not known here."""
    return {
        "id": case["id"],
        **case["expected"],
        "token_count": case["router_input_tokens"],
        "agent_margin": 0.0,
        "role_margin": 0.0,
        "agent_logits_rounded": [0.0] * 7,
        "role_logits_rounded": [0.0] * 3,
        "transcript_hash": "of another system",
        "route_hash": "of another system",
    }


def vectors(model: RoutingModel, sequences: list[tuple[int, ...]]) -> np.ndarray:
    """The routing vectors of ``sequences``, read in one batch."""
    return hidden(model, *fresh(*(needed_tokens(tokens) for tokens in sequences)))


def oracle_vectors(
    oracle: builders.PlainRecipe | builders.BundleOracle, sequences: list[tuple[int, ...]]
) -> np.ndarray:
    return np.stack([oracle.hidden(tokens) for tokens in sequences])


def random_factors(base: Base) -> dict[str, tuple[Execution, np.ndarray]]:
    """A factor near the identity for each tensor that an adapter changes."""
    draw = np.random.default_rng(7)
    shapes = base.config.backbone_shapes()
    factors = {}
    for name in builders.adapted_names(base):
        rows, columns = shapes[name]
        side = min(rows, columns)
        noise = draw.normal(0.0, 0.2 / np.sqrt(side), (side, side))
        factors[name] = (Execution.RIGHT if rows >= columns else Execution.LEFT, np.eye(side) + noise)
    return factors


def test_merged_is_the_same_function_as_factored(loaded: LoadedBase, full: FullSize) -> None:
    factored, merged = (
        vectors(loaded.attach(full.bundle.adapter, full.bundle.head, merged=merged), full.sequences[:2])
        for merged in (False, True)
    )
    assert worst(merged, factored) <= TOLERANCE


def test_a_finished_bundle_adds_less_than_a_second_of_work_to_the_base(loaded: LoadedBase, full: FullSize) -> None:
    """Work of this thread, and the least of three times: other programs take none of it."""

    def seconds() -> float:
        started = time.thread_time()
        bundle = open_bundle(full.bundle.folder)
        check_fit(bundle, full.base)
        loaded.attach(bundle.adapter, bundle.head)
        return time.thread_time() - started

    assert min(seconds() for _ in range(3)) < 1.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account of memory")
def test_two_adapters_on_one_base_share_its_memory(loaded: LoadedBase, full: FullSize) -> None:
    first = loaded.attach(full.bundle.adapter, full.bundle.head)
    vectors(first, full.sequences[:1])
    before = anonymous_bytes()
    second = loaded.attach(full.bundle.adapter, full.bundle.head)
    vectors(second, full.sequences[:1])
    assert anonymous_bytes() - before < 2 * second.nbytes + 50_000_000
    assert second.nbytes < loaded.nbytes / 20


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
