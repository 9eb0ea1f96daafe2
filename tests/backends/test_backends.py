"""What every backend promises, held against transformers, mlx-lm and numpy in float64."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.artifact import Base, Bundle, Execution
from trinity_mlx.contracts.backend import Backend, LoadedBase, RoutingModel, Segment
from trinity_mlx.contracts.errors import TensorFileInvalid
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.reader import needed_tokens

from .. import builders
from ..builders import PlainRecipe, fresh, hidden, kept, random_tokens, reads_models, relative, worst
from ..file_server import wait_for

EXACT = 1e-5
"""Relative difference that float32 may make between two ways to compute the same thing on the tiny model."""

ids = st.integers(0, builders.TINY["vocab_size"] - 1)
sequences = st.lists(ids, min_size=1, max_size=60).map(tuple)
batches = st.lists(sequences, min_size=2, max_size=6)


@st.composite
def segments_with_pasts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """A sequence, an earlier one that begins alike and goes on in its own way, and how much of that to reuse."""
    tokens = draw(st.lists(ids, min_size=2, max_size=60).map(tuple))
    reuse = draw(st.integers(1, len(tokens) - 1))
    earlier = tokens[:reuse] + draw(st.lists(ids, max_size=20).map(tuple))
    return tokens, earlier, reuse


# --- equal to the oracles ---------------------------------------------------------------------------------------------


@reads_models
@given(sequences)
def test_hidden_vector_is_that_of_transformers(
    plain_model: RoutingModel, plain_recipe: PlainRecipe, tokens: tuple[int, ...]
) -> None:
    found = hidden(plain_model, *fresh(needed_tokens(tokens)))[0]
    assert relative(found, plain_recipe.hidden(tokens)) <= EXACT


@reads_models
@given(sequences)
def test_adapted_hidden_vector_is_that_of_transformers_with_adapted_weights(
    adapted_model: RoutingModel, adapted_recipe: PlainRecipe, tokens: tuple[int, ...]
) -> None:
    found = hidden(adapted_model, *fresh(needed_tokens(tokens)))[0]
    assert relative(found, adapted_recipe.hidden(tokens)) <= EXACT


@pytest.mark.parametrize("length", [1, 2, 3, 64, 599])
def test_hidden_vector_is_that_of_transformers_at_the_ends_of_the_context(
    adapted_model: RoutingModel, adapted_recipe: PlainRecipe, length: int
) -> None:
    tokens = random_tokens(length)
    found = hidden(adapted_model, *fresh(needed_tokens(tokens)))[0]
    assert relative(found, adapted_recipe.hidden(tokens)) <= EXACT


@pytest.mark.parametrize("length", [1, 2, 3, 40, 300])
def test_hidden_vector_is_that_of_mlx_lm(plain_model: RoutingModel, tiny_base: Base, length: int) -> None:
    tokens = random_tokens(length)
    found = hidden(plain_model, *fresh(tokens))[0]
    assert relative(found, mlx_lm_hidden(tiny_base.folder, tokens)) <= EXACT


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 1, "num_hidden_layers": 2},
        {"num_key_value_heads": 4, "head_dim": 16},
        {"rope_theta": 100.0, "rms_norm_eps": 0.1},
        {"intermediate_size": 40, "num_hidden_layers": 5},
        {"hidden_size": 24, "vocab_size": 300},
        {"tie_word_embeddings": False},
        {"max_shard_size": "60KB"},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_other_shapes_and_files_of_the_architecture(backend: Backend, tmp_path: Path, changes: dict[str, Any]) -> None:
    base = builders.make_base(tmp_path / "base", seed=5, **changes)
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, builders.make_head(base))
    model = builders.load(backend, base).attach(None, bundle.head)
    tokens = random_tokens(50, base.config.vocab_size)
    expected = PlainRecipe(base.folder).hidden(tokens)
    assert relative(hidden(model, *fresh(tokens[:-1]))[0], expected) <= EXACT


@reads_models
@given(batches)
def test_backends_agree(tiny_models: dict[str, RoutingModel], batch: list[tuple[int, ...]]) -> None:
    assert worst(*(hidden(model, *fresh(*batch)) for model in tiny_models.values())) <= EXACT


@reads_models
@given(batches)
def test_head_logits_are_those_of_float64(
    adapted_model: RoutingModel, tiny_head: np.ndarray, batch: list[tuple[int, ...]]
) -> None:
    segments = fresh(*batch)
    expected = np.array(adapted_model.values(adapted_model.read(segments))) @ tiny_head.astype(np.float64).T
    assert worst(np.array(adapted_model.logits(segments)[0]), expected) <= EXACT


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_head_is_applied_in_float32_whatever_the_number_type(
    backend: Backend, tiny_base: Base, tiny_bundle: Bundle, tiny_head: np.ndarray, dtype: str
) -> None:
    model = builders.load(backend, tiny_base, dtype).attach(tiny_bundle.adapter, tiny_bundle.head)
    segments = fresh(random_tokens(20), random_tokens(33))
    expected = np.array(model.values(model.read(segments))) @ tiny_head.astype(np.float64).T
    assert worst(np.array(model.logits(segments)[0]), expected) <= EXACT


# --- laws of reading --------------------------------------------------------------------------------------------------


@reads_models
@given(batches)
def test_batch_equals_one_by_one(adapted_model: RoutingModel, batch: list[tuple[int, ...]]) -> None:
    alone = np.concatenate([hidden(adapted_model, segment) for segment in fresh(*batch)])
    assert worst(hidden(adapted_model, *fresh(*batch)), alone) <= EXACT


@reads_models
@given(batches, st.randoms(use_true_random=False))
def test_order_within_a_batch_does_not_matter(
    adapted_model: RoutingModel, batch: list[tuple[int, ...]], random: Any
) -> None:
    order = random.sample(range(len(batch)), len(batch))
    shuffled = hidden(adapted_model, *fresh(*(batch[index] for index in order)))
    assert worst(shuffled, hidden(adapted_model, *fresh(*batch))[order]) <= EXACT


@reads_models
@given(segments_with_pasts())
def test_reused_past_equals_fresh(
    adapted_model: RoutingModel, case: tuple[tuple[int, ...], tuple[int, ...], int]
) -> None:
    tokens, earlier, reuse = case
    past = kept(adapted_model, *fresh(earlier))[0]
    continued = hidden(adapted_model, Segment(tokens, past, reuse))
    assert worst(continued, hidden(adapted_model, *fresh(tokens))) <= EXACT


@reads_models
@given(sequences, st.data())
def test_reading_in_any_steps_equals_reading_at_once(
    adapted_model: RoutingModel, tokens: tuple[int, ...], data: st.DataObject
) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, len(tokens)), max_size=5)) | {len(tokens)})
    segment = Segment(tokens[: ends[0]])
    for end in ends[1:]:
        past = kept(adapted_model, segment)[0]
        segment = Segment(tokens[:end], past, past.length)
    assert worst(hidden(adapted_model, segment), hidden(adapted_model, *fresh(tokens))) <= EXACT


@reads_models
@given(st.lists(segments_with_pasts(), min_size=1, max_size=3), st.lists(sequences, min_size=1, max_size=3))
def test_batch_may_mix_continued_and_fresh_segments(
    adapted_model: RoutingModel, cases: list[tuple[tuple[int, ...], tuple[int, ...], int]], others: list[Any]
) -> None:
    pasts = kept(adapted_model, *fresh(*(earlier for _, earlier, _ in cases)))
    continued = [Segment(tokens, past, reuse) for (tokens, _, reuse), past in zip(cases, pasts, strict=True)]
    mixed = [segment for pair in zip(continued, fresh(*others), strict=False) for segment in pair]
    assert worst(hidden(adapted_model, *mixed), hidden(adapted_model, *fresh(*(s.tokens for s in mixed)))) <= EXACT


@reads_models
@given(batches)
def test_pasts_of_a_batch_are_those_of_their_sequences(
    adapted_model: RoutingModel, batch: list[tuple[int, ...]]
) -> None:
    pasts = kept(adapted_model, *fresh(*batch))
    longer = [(*tokens, 7) for tokens in batch]
    continued = [Segment(tokens, past, past.length) for tokens, past in zip(longer, pasts, strict=True)]
    assert worst(hidden(adapted_model, *continued), hidden(adapted_model, *fresh(*longer))) <= EXACT


def test_a_past_can_be_continued_in_several_ways(adapted_model: RoutingModel) -> None:
    tokens = random_tokens(30)
    past = kept(adapted_model, *fresh(tokens))[0]
    before = hidden(adapted_model, Segment((*tokens, 1), past, 30))
    hidden(adapted_model, Segment((*tokens, 2), past, 30), Segment((*tokens[:9], 3), past, 9))
    assert np.array_equal(before, hidden(adapted_model, Segment((*tokens, 1), past, 30)))


def test_no_past_is_handed_out_unless_asked_for(adapted_model: RoutingModel) -> None:
    segments = [Segment((1, 2, 3)), Segment((1, 2, 4), keep=True), Segment((5,))]
    assert [past and past.length for past in adapted_model.logits(segments)[1]] == [None, 3, None]


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_ready_tensors_equal_factors(
    loaded: LoadedBase,
    adapted_model: RoutingModel,
    tiny_base: Base,
    tiny_offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    tmp_path: Path,
) -> None:
    bundle = builders.write_bundle(tmp_path, tiny_base, builders.replaced(tiny_base, tiny_offsets), tiny_head)
    assert {entry.execution for entry in bundle.adapter.entries} == {Execution.REPLACE}
    merged = loaded.attach(bundle.adapter, bundle.head)
    batch = fresh(*(random_tokens(length) for length in (1, 2, 30, 200)))
    assert worst(hidden(merged, *batch), hidden(adapted_model, *batch)) <= EXACT


@pytest.mark.parametrize("index", range(8))
def test_each_adapted_tensor_alone_has_its_effect(
    loaded: LoadedBase,
    plain_model: RoutingModel,
    tiny_base: Base,
    tiny_offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    tmp_path: Path,
    index: int,
) -> None:
    name = builders.adapted_names(tiny_base)[index]
    only = {name: tiny_offsets[name]}
    bundle = builders.write_bundle(tmp_path, tiny_base, builders.factored(tiny_base, only), tiny_head)
    tokens = random_tokens(40)
    found = hidden(loaded.attach(bundle.adapter, bundle.head), *fresh(tokens[:-1]))[0]
    assert relative(found, builders.adapted_recipe(tiny_base, only).hidden(tokens)) <= EXACT
    assert relative(found, hidden(plain_model, *fresh(tokens[:-1]))[0]) > 100 * EXACT


def test_offsets_of_zero_change_nothing(
    loaded: LoadedBase, plain_model: RoutingModel, tiny_base: Base, tiny_head: np.ndarray, tmp_path: Path
) -> None:
    zeros = builders.make_offsets(tiny_base, scale=0.0)
    bundle = builders.write_bundle(tmp_path, tiny_base, builders.factored(tiny_base, zeros), tiny_head)
    batch = fresh(random_tokens(5), random_tokens(80))
    found = hidden(loaded.attach(bundle.adapter, bundle.head), *batch)
    assert worst(found, hidden(plain_model, *batch)) <= EXACT


def test_models_on_one_base_leave_each_other_alone(loaded: LoadedBase, tiny_bundle: Bundle) -> None:
    batch = fresh(random_tokens(12), random_tokens(50))
    plain = loaded.attach(None, tiny_bundle.head)
    before = hidden(plain, *batch)
    adapted = hidden(loaded.attach(tiny_bundle.adapter, tiny_bundle.head), *batch)
    assert np.array_equal(hidden(plain, *batch), before)
    assert worst(adapted, before) > 100 * EXACT


# --- number types, description, failure -------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.06), ("float16", 0.008)])
def test_short_number_types_stay_near_float32(
    backend: Backend,
    tiny_base: Base,
    tiny_bundle: Bundle,
    adapted_model: RoutingModel,
    dtype: str,
    tolerance: float,
) -> None:
    model = builders.load(backend, tiny_base, dtype).attach(tiny_bundle.adapter, tiny_bundle.head)
    batch = fresh(*(random_tokens(length) for length in (1, 10, 100, 400)))
    difference = worst(hidden(model, *batch), hidden(adapted_model, *batch))
    assert EXACT < difference <= tolerance


@pytest.mark.parametrize(("length", "reuse"), [(63, 0), (64, 0), (200, 0), (200, 120), (400, 150)])
def test_long_reads_in_bfloat16_stay_near_float32(
    backend: Backend, tiny_base: Base, tiny_bundle: Bundle, length: int, reuse: int
) -> None:
    """Where a backend takes another way to attend for many bfloat16 queries, it must be the same attention."""
    tokens = random_tokens(length)
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = backend.load_base(tiny_base, device="cpu", dtype=dtype).attach(tiny_bundle.adapter, tiny_bundle.head)
        past = kept(model, Segment(tokens[:reuse]))[0] if reuse else None
        found[dtype] = np.array(model.values(model.read([Segment(tokens, past, reuse)])))
    assert builders.relative(found["bfloat16"], found["float32"]) < 0.06


def test_info_names_what_can_be_asked_for(backend: Backend, tiny_base: Base, tiny_bundle: Bundle) -> None:
    info = backend.info()
    assert info.backend_id in builders.BACKENDS
    assert load_backend(info.backend_id) is backend
    assert "cpu" in info.devices
    assert info.versions
    assert all(info.versions.values())
    assert {"float32", "bfloat16", "float16"} <= set(info.dtypes)
    for dtype in info.dtypes:
        model = builders.load(backend, tiny_base, dtype).attach(tiny_bundle.adapter, tiny_bundle.head)
        assert np.isfinite(hidden(model, *fresh((1, 2, 3)))).all()
        assert model.batch_tokens > 0


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_weights_that_spoil_after_they_were_checked_are_named(backend: Backend, tmp_path: Path, damage: str) -> None:
    base = builders.make_base(tmp_path / "base")
    path = base.folder / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(TensorFileInvalid, match=r"model\.safetensors"):
        builders.load(backend, base)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
@pytest.mark.parametrize("length", [1, 17])
def test_past_tells_its_length_and_bytes(
    backend: Backend, tiny_base: Base, tiny_bundle: Bundle, dtype: str, width: int, length: int
) -> None:
    model = builders.load(backend, tiny_base, dtype).attach(None, tiny_bundle.head)
    config = tiny_base.config
    for past in kept(model, *fresh(random_tokens(length), random_tokens(length))):
        assert past.length == length
        assert past.nbytes == 2 * config.num_layers * config.num_kv_heads * config.head_dim * length * width


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_kept_past_keeps_nothing_else_alive_on_torch(tmp_path: Path, kv_heads: int) -> None:
    past = past_of_a_short_segment_in_a_long_batch("torch", tmp_path, kv_heads)
    storages = {tensor.untyped_storage() for pair in past.layers for tensor in pair}
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert sum(held.values()) == past.nbytes


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_kept_past_keeps_nothing_else_alive_on_mlx(tmp_path: Path, kv_heads: int) -> None:
    past = past_of_a_short_segment_in_a_long_batch("mlx", tmp_path, kv_heads)
    gc.collect()
    with_past = mx.get_active_memory()
    nbytes = past.nbytes
    del past
    gc.collect()
    # MLX's thread frees what is its own
    wait_for(lambda: nbytes <= with_past - mx.get_active_memory() <= 2 * nbytes)


# --- threads and processes --------------------------------------------------------------------------------------------


def test_many_threads_may_read(adapted_model: RoutingModel) -> None:
    batch = [random_tokens(length) for length in range(2, 42)]
    expected = [hidden(adapted_model, segment) for segment in fresh(*batch)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda tokens: hidden(adapted_model, *fresh(tokens)), batch * 3))
    assert all(np.array_equal(*pair) for pair in zip(found, expected * 3, strict=True))


def test_a_model_may_be_loaded_in_one_thread_and_dropped_in_another(
    backend: Backend, tiny_base: Base, tiny_bundle: Bundle, adapted_model: RoutingModel
) -> None:
    def load_and_read() -> tuple[RoutingModel, np.ndarray]:
        model = builders.load(backend, tiny_base).attach(tiny_bundle.adapter, tiny_bundle.head)
        return model, hidden(model, *fresh((5, 6, 7)))

    with ThreadPoolExecutor(1) as pool:
        model, found = pool.submit(load_and_read).result()
    assert np.array_equal(hidden(model, *fresh((5, 6, 7))), found)
    assert np.array_equal(hidden(adapted_model, *fresh((5, 6, 7))), found)


PROCESS = """
import sys, threading
from pathlib import Path
from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.contracts.backend import Segment
from trinity_mlx.profiles.backends import load_backend

def model():
    bundle, base = open_bundle(Path(sys.argv[2])), open_base(sys.argv[1])
    found = load_backend("mlx").load_base(base, device="cpu", dtype="float32").attach(bundle.adapter, bundle.head)
    assert len(found.values(found.read([Segment((1, 2, 3))]))[0]) == 64
    return found

"""
ENDINGS = {
    "model alive": "kept = model()",
    "model dropped": "model()",
    "two models, one dropped": "kept, other = model(), model(); del other",
    "past alive": "kept = model(); past = kept.logits([Segment((1, 2, 3), keep=True)])[1]",
    "read by a thread that ended": "t = threading.Thread(target=model); t.start(); t.join()",
    "exit called": "kept = model(); sys.exit(0)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_process_that_used_mlx_ends_well(tiny_base: Base, tiny_bundle: Bundle, ending: str) -> None:
    command = [sys.executable, "-c", PROCESS + ENDINGS[ending], str(tiny_base.folder), str(tiny_bundle.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- helpers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_models(tiny_base: Base, tiny_bundle: Bundle) -> dict[str, RoutingModel]:
    return {name: builders.cpu_model(name, tiny_base, tiny_bundle) for name in builders.BACKENDS}


def mlx_lm_hidden(folder: Path, tokens: tuple[int, ...]) -> np.ndarray:
    """mlx-lm's hidden vector after the final norm at the last of ``tokens``."""
    from mlx_lm.models.qwen3 import Model, ModelArgs

    config = json.loads((folder / "config.json").read_text())
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    with mx.stream(mx.cpu):
        model = Model(ModelArgs.from_dict({**config, "rope_theta": theta, "rope_scaling": None}))
        weights = mx.load(str(folder / "model.safetensors"))
        model.load_weights(list(model.sanitize(weights).items()), strict=True)
        return np.array(model.model(mx.array([tokens]))[0, -1])


def past_of_a_short_segment_in_a_long_batch(name: str, folder: Path, kv_heads: int) -> Any:
    base = builders.make_base(folder / "base", num_key_value_heads=kv_heads, head_dim=128)
    bundle = builders.write_bundle(folder / "bundle", base, {}, builders.make_head(base))
    model = builders.cpu_model(name, base, bundle)
    return kept(model, *fresh(random_tokens(500), random_tokens(20), random_tokens(400)))[1]
