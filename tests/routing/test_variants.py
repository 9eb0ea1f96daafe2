"""Kernels composed from plain operations, and quantised weights: against transformers and numpy in float64."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as numpy_files
from trinity_backend_mlx import kernels

from tools.nano.corpus import examples
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.backend import DEFAULT_VARIANT, Backend, RoutingModel, Segment, Variant
from trinity_mlx.contracts.errors import ProfileUnavailable, UsageError
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.leases import ModelRegistry
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.reader import needed_tokens

from .. import builders
from ..builders import PlainRecipe, fresh, hidden, random_tokens, reads_models, relative, worst
from ..file_server import wait_for

EXACT = 1e-5
"""Relative difference that float32 may make between two ways to compute the same thing on the tiny model."""

COMPOSED = Variant(kernels="composed")
QUANTIZED = [("torch", 8), ("mlx", 8), ("mlx", 4)]
HALFWAY = 3e-4
"""The same where a few weights lie halfway between two levels, and float32 rounds them to the other one."""

COARSE = {8: 0.05, 4: 0.6}
"""How far so few bits may move a hidden vector of the tiny model, relative to its length."""

sequences = st.lists(st.integers(0, builders.TINY["vocab_size"] - 1), min_size=1, max_size=60).map(tuple)


BATCH = [random_tokens(length) for length in (1, 2, 40, 17, 130, 3)]


def load(backend: str, base: Base, variant: Variant, dtype: str = "float32") -> Any:
    return load_backend(backend).load_base(base, device="cpu", dtype=dtype, variant=variant)


def continued(model: RoutingModel, tokens: tuple[int, ...], reuse: int) -> Segment:
    """``tokens`` with their first ``reuse`` positions from a past that goes on in another way."""
    past = builders.kept(model, Segment((*tokens[:reuse], 7, 7)))[0]
    return Segment(tokens, past, reuse)


# --- the description --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "label"),
    [
        (Variant(), ""),
        (Variant("composed"), "composed"),
        (Variant(quantize=8), "int8"),
        (Variant(quantize=4), "int4"),
        (Variant("composed", 8), "composed+int8"),
    ],
)
def test_label_says_what_is_unlike_the_default(variant: Variant, label: str) -> None:
    assert variant.label == label


@pytest.mark.parametrize("options", [{"kernels": "slow"}, {"kernels": ""}, {"quantize": 3}, {"quantize": 0}])
def test_unknown_variants_are_refused_by_name(options: dict[str, Any]) -> None:
    value = next(iter(options.values()))
    with pytest.raises(UsageError, match=f"{value!r}.*choose"):
        Variant(**options)
    with pytest.raises(UsageError, match=f"{value!r}.*choose"):
        load_router("nano", profile="cpu", **options)


# --- composed kernels -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed_model(backend: Backend, tiny_base: Base, tiny_bundle: Bundle) -> RoutingModel:
    base = backend.load_base(tiny_base, device="cpu", dtype="float32", variant=COMPOSED)
    return base.attach(tiny_bundle.adapter, tiny_bundle.head)


@reads_models
@given(sequences)
def test_composed_kernels_give_the_hidden_vector_of_transformers(
    composed_model: RoutingModel, adapted_recipe: PlainRecipe, tokens: tuple[int, ...]
) -> None:
    found = hidden(composed_model, *fresh(needed_tokens(tokens)))[0]
    assert relative(found, adapted_recipe.hidden(tokens)) <= EXACT


@pytest.mark.parametrize("length", [1, 2, 64, 599])
def test_composed_kernels_are_right_at_the_ends_of_the_context(
    composed_model: RoutingModel, adapted_recipe: PlainRecipe, length: int
) -> None:
    tokens = random_tokens(length)
    found = hidden(composed_model, *fresh(needed_tokens(tokens)))[0]
    assert relative(found, adapted_recipe.hidden(tokens)) <= EXACT


@reads_models
@given(st.lists(st.tuples(sequences, st.floats(0, 1)), min_size=1, max_size=5))
def test_composed_kernels_read_batches_and_pasts_as_the_fused_read_each_alone(
    composed_model: RoutingModel, adapted_model: RoutingModel, cases: list[tuple[tuple[int, ...], float]]
) -> None:
    batch = [continued(composed_model, tokens, int(share * (len(tokens) - 1))) for tokens, share in cases]
    alone = np.concatenate([hidden(adapted_model, *fresh(tokens)) for tokens, _ in cases])
    assert worst(hidden(composed_model, *batch), alone) <= EXACT


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4, "head_dim": 16},
        {"rope_theta": 100.0, "rms_norm_eps": 0.1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_composed_kernels_follow_the_configuration(backend: Backend, tmp_path: Path, changes: dict[str, Any]) -> None:
    base = builders.make_base(tmp_path / "base", seed=5, **changes)
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, builders.make_head(base))
    loaded = backend.load_base(base, device="cpu", dtype="float32", variant=COMPOSED)
    tokens = random_tokens(50)
    found = hidden(loaded.attach(None, bundle.head), *fresh(tokens[:-1]))[0]
    assert relative(found, PlainRecipe(base.folder).hidden(tokens)) <= EXACT


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.06), ("float16", 0.008)])
def test_composed_kernels_in_short_number_types_stay_near_float32(
    backend: Backend,
    tiny_base: Base,
    tiny_bundle: Bundle,
    adapted_model: RoutingModel,
    dtype: str,
    tolerance: float,
) -> None:
    loaded = backend.load_base(tiny_base, device="cpu", dtype=dtype, variant=COMPOSED)
    found = hidden(loaded.attach(tiny_bundle.adapter, tiny_bundle.head), *fresh(*BATCH))
    assert EXACT < worst(found, hidden(adapted_model, *fresh(*BATCH))) <= tolerance


def test_composed_kernels_call_no_fused_one(
    monkeypatch: pytest.MonkeyPatch, composed_model: RoutingModel, adapted_model: RoutingModel
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a fused kernel was called")

    for name in ("rms_norm", "rope", "scaled_dot_product_attention"):
        monkeypatch.setattr(mx.fast, name, refuse)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    assert np.isfinite(hidden(composed_model, *fresh(*BATCH))).all()
    with pytest.raises(AssertionError, match="fused"):
        hidden(adapted_model, *fresh(*BATCH))


# --- quantised weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [0, 1, 200])
@pytest.mark.parametrize("queries", [127, 128, 129, 300])
def test_attention_in_blocks_is_attention(queries: int, past: int) -> None:
    """On the CPU, MLX's fused attention goes block by block: checked against numpy in float64."""
    draw = np.random.default_rng(queries + past)
    total, heads, width = queries + past, 2, 8
    q, k, v = (draw.normal(size=(1, heads, count, width)) for count in (queries, total, total))
    scores = q @ k.swapaxes(-1, -2) / width**0.5
    scores[..., np.triu(np.ones((queries, total), dtype=bool), past + 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    with mx.stream(mx.cpu):
        found = kernels.FUSED.attend(*(mx.array(each.astype(np.float32)) for each in (q, k, v)))
        assert np.abs(np.array(found) - expected).max() < 1e-5


def symmetric_rows(weight: np.ndarray) -> np.ndarray:
    """What is left of a matrix in 8 bits with a scale for each row, in float64."""
    scales = np.abs(weight).max(axis=1, keepdims=True) / 127
    return np.round(weight / scales) * scales


def affine_groups(weight: np.ndarray, bits: int) -> np.ndarray:
    """What is left of a matrix in MLX's format, in float64: levels from the edge farther from zero, which stays exact.

    The scale is stretched a little so that zero is a level too.
    """
    width = 64 if weight.shape[1] % 64 == 0 else 32
    groups = weight.reshape(-1, width)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    scale = np.where(-low > high, 1, -1) * (high - low) / (2**bits - 1)
    edge = np.where(-low > high, low, high)
    scale = edge / np.round(edge / scale)
    levels = np.clip(np.round((groups - edge) / scale), 0, 2**bits - 1)
    return (levels * scale + edge).reshape(weight.shape)


def rounded(backend: str, bits: int, weight: np.ndarray) -> np.ndarray:
    return symmetric_rows(weight) if backend == "torch" else affine_groups(weight, bits)


def matrices(base: Base) -> dict[str, np.ndarray]:
    """The embedding and the matrices of every layer, float64."""
    shapes = base.config.backbone_shapes()
    return {name: builders.read_float64(base.tensors[name]) for name, shape in shapes.items() if len(shape) == 2}


def quantized_recipe(base: Base, bundle: Bundle, backend: str, bits: int, *, merged: bool) -> PlainRecipe:
    """Transformers' model on rounded matrices; the adapter is applied after the rounding, or before it if merged."""
    changes = {entry.source: (entry.execution, builders.read_float64(entry.tensor)) for entry in bundle.adapter.entries}
    weights = {}
    for name, weight in matrices(base).items():
        execution, change = changes.get(name, (None, None))
        if execution is None:
            weights[name] = rounded(backend, bits, weight)
        elif merged:
            weights[name] = rounded(backend, bits, builders.changed_by(execution, weight, change))
        else:
            weights[name] = builders.changed_by(execution, rounded(backend, bits, weight), change)
    return PlainRecipe(base.folder, weights)


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
@pytest.mark.parametrize("merged", [False, True])
def test_quantised_models_compute_with_the_rounded_weights(
    tiny_base: Base, tiny_bundle: Bundle, name: str, bits: int, merged: bool
) -> None:
    model = load(name, tiny_base, Variant(quantize=bits)).attach(tiny_bundle.adapter, tiny_bundle.head, merged=merged)
    recipe = quantized_recipe(tiny_base, tiny_bundle, name, bits, merged=merged)
    expected = np.array([recipe.hidden((*tokens, 0)) for tokens in BATCH])
    assert worst(hidden(model, *fresh(*BATCH)), expected) <= HALFWAY


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
def test_few_bits_move_the_hidden_vector_a_little(
    tiny_base: Base, tiny_bundle: Bundle, adapted_recipe: PlainRecipe, name: str, bits: int
) -> None:
    model = load(name, tiny_base, Variant(quantize=bits)).attach(tiny_bundle.adapter, tiny_bundle.head)
    expected = np.array([adapted_recipe.hidden((*tokens, 0)) for tokens in BATCH])
    assert 10 * HALFWAY < relative(hidden(model, *fresh(*BATCH)), expected) <= COARSE[bits]


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
def test_quantised_models_read_batches_and_pasts_as_each_alone(
    tiny_base: Base, tiny_bundle: Bundle, name: str, bits: int
) -> None:
    model = load(name, tiny_base, Variant("composed", bits)).attach(tiny_bundle.adapter, tiny_bundle.head)
    batch = [continued(model, tokens, len(tokens) // 2) for tokens in BATCH]
    alone = np.concatenate([hidden(model, *fresh(tokens)) for tokens in BATCH])
    assert worst(hidden(model, *batch), alone) <= EXACT


def test_quantised_products_of_wide_matrices_keep_the_accuracy_of_bfloat16(backend: Backend, tmp_path: Path) -> None:
    """Thousands of terms must not be summed in bfloat16 itself, as MLX's own quantised product does on the CPU."""
    wide = {"intermediate_size": 2048, "initializer_range": 0.1, "dtype": torch.bfloat16}
    base = builders.make_base(tmp_path / "base", **wide)
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, builders.make_head(base))
    found = {}
    for dtype in ("bfloat16", "float32"):
        loaded = backend.load_base(base, device="cpu", dtype=dtype, variant=Variant(quantize=8))
        found[dtype] = hidden(loaded.attach(None, bundle.head), *fresh(*BATCH))
    assert EXACT < relative(found["bfloat16"], found["float32"]) <= 0.06


def test_a_row_of_zeros_stays_zero(tmp_path: Path) -> None:
    """Tokens that a model never learnt may have no embedding at all."""
    base = builders.make_base(tmp_path / "base")
    path = base.folder / "model.safetensors"
    tensors = numpy_files.load_file(path)
    tensors[builders.EMBEDDING][7] = 0.0
    numpy_files.save_file(tensors, path, metadata={"format": "pt"})
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, builders.make_head(base))
    for name, bits in QUANTIZED:
        model = load(name, base, Variant(quantize=bits)).attach(None, bundle.head)
        assert not hidden(model, *fresh((7,))).any()


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
def test_ready_tensors_are_quantised_as_merged_ones_are(
    tiny_base: Base,
    tiny_bundle: Bundle,
    tiny_offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    tmp_path: Path,
    name: str,
    bits: int,
) -> None:
    ready = builders.write_bundle(tmp_path, tiny_base, builders.replaced(tiny_base, tiny_offsets), tiny_head)
    loaded = load(name, tiny_base, Variant(quantize=bits))
    merged = loaded.attach(tiny_bundle.adapter, tiny_bundle.head, merged=True)
    for model in (loaded.attach(ready.adapter, ready.head), loaded.attach(ready.adapter, ready.head, merged=True)):
        assert model.nbytes == merged.nbytes
        assert worst(hidden(model, *fresh(*BATCH)), hidden(merged, *fresh(*BATCH))) <= 10 * HALFWAY


# --- memory -----------------------------------------------------------------------------------------------------------


def stored_bytes(backend: str, bits: int, shape: tuple[int, ...]) -> int:
    """Bytes of one float32 tensor of the base once it is quantised: levels, and what its groups share."""
    if len(shape) == 1:
        return 4 * shape[0]
    rows, columns = shape
    shared = rows if backend == "torch" else 2 * rows * columns // (64 if columns % 64 == 0 else 32)
    return rows * columns * bits // 8 + 4 * shared


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
def test_a_quantised_base_takes_the_bytes_of_its_levels(tiny_base: Base, name: str, bits: int) -> None:
    found = load(name, tiny_base, Variant(quantize=bits)).nbytes
    assert found == sum(stored_bytes(name, bits, shape) for shape in tiny_base.config.backbone_shapes().values())
    assert found < load(name, tiny_base, DEFAULT_VARIANT).nbytes * bits / 22


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_of_the_source_stays_in_memory_on_mlx(tiny_base: Base, tiny_bundle: Bundle, bits: int) -> None:
    gc.collect()
    before = mx.get_active_memory()
    base = load("mlx", tiny_base, Variant(quantize=bits))
    model = base.attach(tiny_bundle.adapter, tiny_bundle.head, merged=True)
    gc.collect()
    told = base.nbytes + model.nbytes
    # MLX's thread frees what is its own
    wait_for(lambda: told <= mx.get_active_memory() - before <= 1.2 * told + 65536)


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
def test_factors_and_head_keep_their_bytes_on_a_quantised_base(
    tiny_base: Base, tiny_bundle: Bundle, name: str, bits: int
) -> None:
    found = [
        load(name, tiny_base, variant).attach(tiny_bundle.adapter, tiny_bundle.head).nbytes
        for variant in (DEFAULT_VARIANT, Variant(quantize=bits))
    ]
    assert found[0] == found[1]


# --- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builders.BACKENDS)
def test_variants_share_nothing_and_equal_ones_everything(tiny_base: Base, tiny_bundle: Bundle, name: str) -> None:
    registry = ModelRegistry()

    def lease(variant: Variant, merged: bool = False) -> Any:
        return registry.lease(
            load_backend(name), tiny_base, tiny_bundle.adapter, tiny_bundle.head,
            device="cpu", dtype="float32", merged=merged, variant=variant,
        ).value  # fmt: skip

    variants = [Variant(), COMPOSED, Variant(quantize=8), Variant("composed", 8)]
    leased = [lease(variant) for variant in variants]
    assert len({id(each.model) for each in leased}) == len({id(each.base.value) for each in leased}) == 4
    again = [lease(Variant(variant.kernels, variant.quantize)) for variant in variants]
    assert [each.model for each in again] == [each.model for each in leased]
    merged = lease(variants[2], merged=True)
    assert merged.model is not leased[2].model
    assert merged.base.value is leased[2].base.value


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "bits"), [("cpu", 4), ("cuda", 8), ("cuda", 4), ("mps", 8)])
def test_torch_says_what_it_quantises_where(tiny_base: Base, device: str, bits: int) -> None:
    with pytest.raises(ProfileUnavailable, match=f"torch on {device} does not quantise to {bits} bits.*profile mlx"):
        load_backend("torch").load_base(tiny_base, device=device, dtype="float32", variant=Variant(quantize=bits))


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 24}, {"intermediate_size": 40}], ids=lambda changes: next(iter(changes))
)
def test_mlx_names_the_width_that_no_group_divides(tmp_path: Path, changes: dict[str, int]) -> None:
    base = builders.make_base(tmp_path / "base", **changes)
    with pytest.raises(UsageError, match=f"{next(iter(changes.values()))} wide.*without quantisation"):
        load("mlx", base, Variant(quantize=4))


def test_torch_quantises_rows_of_any_width(tmp_path: Path) -> None:
    base = builders.make_base(tmp_path / "base", hidden_size=24, intermediate_size=40)
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, builders.make_head(base))
    model = load("torch", base, Variant(quantize=8)).attach(None, bundle.head)
    expected = np.array([PlainRecipe(base.folder).hidden((*tokens, 0)) for tokens in BATCH])
    assert relative(hidden(model, *fresh(*BATCH)), expected) <= COARSE[8]


def test_an_unsupported_variant_leaves_the_registry_usable(tiny_base: Base, tiny_bundle: Bundle) -> None:
    with pytest.raises(ProfileUnavailable):
        load_router(tiny_bundle.folder, base=tiny_base.folder, profile="cpu", quantize=4)
    with load_router(tiny_bundle.folder, base=tiny_base.folder, profile="cpu", quantize=8) as router:
        assert router.identity.variant == Variant(quantize=8)


# --- the embedded artifact --------------------------------------------------------------------------------------------

TRANSCRIPTS = [example.messages for example in examples("heldout", 12, seed=7)]


@cache
def routed(profile: str, **options: Any) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Slot and role of every transcript, and all logits [transcripts, 10]."""
    with builders.load_nano(profile, dtype="float32", **options) as router:
        assert router.identity.variant == Variant(**options)
        decisions = router.route_many(TRANSCRIPTS)
    logits = np.array([decision.logits.agent + decision.logits.role for decision in decisions])
    return [(decision.slot, int(decision.role)) for decision in decisions], logits


@pytest.mark.parametrize("profile", builders.PROFILES.values())
def test_nano_decides_alike_with_either_kernels(profile: str) -> None:
    choices, logits = routed(profile)
    composed_choices, composed_logits = routed(profile, kernels="composed")
    assert choices == composed_choices
    assert np.abs(composed_logits - logits).max() <= 5e-5


@pytest.mark.parametrize(("name", "bits"), QUANTIZED)
def test_nano_hardly_moves_when_it_is_quantised(name: str, bits: int) -> None:
    _, logits = routed(builders.PROFILES[name])
    _, quantized = routed(builders.PROFILES[name], quantize=bits)
    assert EXACT < relative(quantized, logits) <= {8: 0.02, 4: 0.2}[bits]
