"""Small models and bundles made from fixed seeds, and independent oracles for what routers must compute with them."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors import numpy as numpy_files
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import ADAPTER_FILE, HEAD_FILE, HEAD_TENSOR, BundleDraft, seal_bundle
from trinity_mlx.contracts.artifact import Base, Bundle, Execution, TensorLocation
from trinity_mlx.contracts.backend import Backend, Factorizer, LoadedBase, Past, RoutingModel, Segment
from trinity_mlx.factorization.svf import svf_factor
from trinity_mlx.files.shipped import data_path
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.router import Router

BACKENDS = ("torch", "mlx")
PROFILES = {"torch": "cpu", "mlx": "mlx"}
LABELS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove")
EMBEDDING = "model.embed_tokens.weight"
MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
TINY = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 600,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
}
TRAINING_LINES = (
    "user: What is 17 + 25? Answer briefly.",
    "assistant: The answer is 42.",
    "system: You are a careful assistant, and you check what you say.",
    "user: Write a function that sorts a list of words by their length.",
    "assistant: ACCEPT: the proof holds. REVISE: the second step does not follow.",
)
PHRASES = (
    "what is the sum of 17 and 25?",
    "prove that every prime above 2 is odd",
    "write a function which sorts words by length: def f(x): return x + 1",
    "plan three steps, then check them",
    "ACCEPT: it holds",
    "REVISE: wrong, because 3.14 is not -7",
    "a poem about rain in Lyon, über Größe, naïve",
    "how many rows of the table have no value?",
    "北京 🙂",
)


def reads_models(test: Callable[..., None]) -> Callable[..., None]:
    """A law whose examples each read models: two fifths of the examples that other laws are tried with."""
    return settings(max_examples=2 * settings.default.max_examples // 5)(test)


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer with at most ``vocab_size`` ids, in which every text has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINING_LINES, trainer)
    return tokenizer


def make_base(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Base:
    """A random Qwen3 in Hugging Face layout; norms vary too, so that leaving one out shows."""
    torch.manual_seed(seed)
    shard = changes.pop("max_shard_size", "5GB")
    model = Qwen3ForCausalLM(Qwen3Config(**{**TINY, **changes}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    train_tokenizer(min(320, model.config.vocab_size)).save(str(folder / "tokenizer.json"))
    return open_base(folder)


def adapted_names(base: Base) -> list[str]:
    """The tensors that an adapter changes: the embedding and the matrices of the second-to-last layer."""
    layer = base.config.num_layers - 2
    return [EMBEDDING, *(f"model.layers.{layer}.{matrix}.weight" for matrix in MATRICES)]


def make_offsets(base: Base, seed: int = 1, scale: float = 0.3) -> dict[str, np.ndarray]:
    """Random offsets for every adapted tensor, one for each singular value."""
    draw = np.random.default_rng(seed)
    return {
        name: draw.normal(0.0, scale, min(shape))
        for name, shape in base.config.backbone_shapes().items()
        if name in adapted_names(base)
    }


def make_head(base: Base, seed: int = 2, labels: Sequence[str] = LABELS) -> np.ndarray:
    """A random routing head [slots + 3, hidden] in float32."""
    draw = np.random.default_rng(seed)
    return draw.normal(0.0, 0.3, (len(labels) + 3, base.config.hidden_size)).astype(np.float32)


def write_bundle(
    folder: Path,
    base: Base,
    changes: Mapping[str, tuple[Execution, np.ndarray]],
    head: np.ndarray,
    **manifest: Any,
) -> Bundle:
    """A sealed bundle on ``base`` that holds ``changes`` and ``head`` in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(matrix, dtype=np.float32) for name, (_, matrix) in changes.items()}
    numpy_files.save_file(tensors, folder / ADAPTER_FILE)
    numpy_files.save_file({HEAD_TENSOR: head.astype(np.float32)}, folder / HEAD_FILE)
    draft = {
        "name": "tiny",
        "base_id": "test/tiny",
        "base_ref": base.ref,
        "agents": LABELS,
        "executions": {name: execution for name, (execution, _) in changes.items()},
    }
    return seal_bundle(folder, BundleDraft(**{**draft, **manifest}))


def factored(base: Base, offsets: Mapping[str, np.ndarray]) -> dict[str, tuple[Execution, np.ndarray]]:
    """The change to each tensor as a small factor, as the package computes it."""
    factors = {name: svf_factor(source_tensor(base, name), values) for name, values in offsets.items()}
    return {name: (factor.execution, factor.matrix) for name, factor in factors.items()}


def replaced(base: Base, offsets: Mapping[str, np.ndarray]) -> dict[str, tuple[Execution, np.ndarray]]:
    """The same change as ready tensors, from a full decomposition in float64."""
    weights = {name: svf_in_float64(source_tensor(base, name), values) for name, values in offsets.items()}
    return {name: (Execution.REPLACE, weight) for name, weight in weights.items()}


def source_tensor(base: Base, name: str) -> np.ndarray:
    """A tensor of ``base`` in float32, read by the safetensors library."""
    location = base.tensors[name]
    if location.dtype == "BF16":
        raise ValueError("numpy has no bfloat16: use a base in float32")
    return numpy_files.load_file(location.path)[location.name]


def svf_in_float64(weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The adapted matrix by its definition: decompose, scale the singular values, keep their sum."""
    left, singular, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    scaled = singular * (1.0 + offsets)
    return (singular.sum() / scaled.sum()) * (left * scaled) @ right


class PlainRecipe:
    """The oracle: transformers' own model, run over the whole text, read at the second-to-last position."""

    def __init__(self, folder: Path, weights: Mapping[str, np.ndarray] | None = None) -> None:
        self._model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            for name, weight in (weights or {}).items():
                self._model.get_parameter(name).copy_(torch.from_numpy(np.asarray(weight, dtype=np.float32)))

    @torch.inference_mode()
    def hidden(self, tokens: Sequence[int]) -> np.ndarray:
        """The vector that routes ``tokens``, the whole text's; index 0 when there is one token."""
        states = self._model(torch.tensor([list(tokens)]), output_hidden_states=True).hidden_states[-1]
        return states[0, max(len(tokens) - 2, 0)].numpy()


def adapted_recipe(base: Base, offsets: Mapping[str, np.ndarray]) -> PlainRecipe:
    """The oracle with adapted weights written into it."""
    return PlainRecipe(base.folder, {name: matrix for name, (_, matrix) in replaced(base, offsets).items()})


def changed_by(execution: Execution, weight: np.ndarray, change: np.ndarray) -> np.ndarray:
    """``W'`` from a source tensor and an adapter's entry."""
    match execution:
        case Execution.RIGHT:
            return weight @ change
        case Execution.LEFT:
            return change @ weight
        case Execution.REPLACE:
            return change


class BundleOracle:
    """The plain recipe for a whole bundle: adapted weights written into transformers' model, the head in float64."""

    def __init__(self, bundle: Bundle, base: Base) -> None:
        weights = {
            entry.source: changed_by(
                entry.execution, read_float64(base.tensors[entry.source]), read_float64(entry.tensor)
            )
            for entry in bundle.adapter.entries
        }
        self._recipe = PlainRecipe(base.folder, weights)
        self._head = read_float64(bundle.head.tensor)

    def hidden(self, tokens: Sequence[int]) -> np.ndarray:
        """The vector that routes the whole text's ``tokens``."""
        return self._recipe.hidden(tokens)

    def choice(self, hidden: np.ndarray) -> tuple[int, int]:
        """Slot and role with the largest logits."""
        logits = self._head @ hidden.astype(np.float64)
        return int(logits[:-3].argmax()), int(logits[-3:].argmax())


def read_float64(tensor: TensorLocation) -> np.ndarray:
    """A tensor's values, read by torch, which knows every number type of the format."""
    with safe_open(tensor.path, framework="pt") as file:
        return file.get_tensor(tensor.name).double().numpy()


class OnDevice:
    """A backend all of whose work runs on one device, whatever a test asks for."""

    def __init__(self, backend: Backend, device: str) -> None:
        self._backend = backend
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def load_base(self, base: Base, **options: Any) -> LoadedBase:
        return self._backend.load_base(base, **{**options, "device": self._device})

    def factorizer(self, _: str) -> Factorizer:
        return self._backend.factorizer(self._device)


def lanes(asked: str | None) -> list[tuple[str, str]]:
    """Each backend with each kind of device that it has here, or with the one asked for."""
    found = [(name, device) for name in BACKENDS for device in load_backend(name).info().devices if ":" not in device]
    chosen = [lane for lane in found if asked in (None, lane[1])]
    if not chosen:
        raise pytest.UsageError(f"no backend has a device {asked!r} here: {', '.join(device for _, device in found)}")
    return chosen


def load(backend: Backend, base: Base, dtype: str = "float32") -> LoadedBase:
    """``base`` on the CPU."""
    return backend.load_base(base, device="cpu", dtype=dtype)


def cpu_model(name: str, base: Base, bundle: Bundle, *, adapted: bool = True) -> RoutingModel:
    """A routing model in float32 on the CPU."""
    return load(load_backend(name), base).attach(bundle.adapter if adapted else None, bundle.head)


def hidden(model: RoutingModel, *segments: Segment) -> np.ndarray:
    """Hidden vectors of ``segments`` read in one batch, [segments, hidden]."""
    return np.array(model.values(model.read(segments)))


def kept(model: RoutingModel, *segments: Segment) -> tuple[Past, ...]:
    """The pasts of ``segments``, read together."""
    return tuple(past for past in model.logits([replace(each, keep=True) for each in segments])[1] if past)


def fresh(*sequences: Sequence[int]) -> list[Segment]:
    """Segments to be read from their first token."""
    return [Segment(tuple(tokens)) for tokens in sequences]


def relative(found: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what was expected, in float64."""
    reference = np.asarray(expected, dtype=np.float64)
    difference = np.linalg.norm(np.asarray(found, dtype=np.float64) - reference)
    return float(difference / np.linalg.norm(reference))


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest ``relative`` over the rows of two matrices of one shape."""
    assert np.shape(found) == np.shape(expected)
    return max(relative(*pair) for pair in zip(found, expected, strict=True))


def random_tokens(length: int, vocab_size: int = int(TINY["vocab_size"])) -> tuple[int, ...]:
    """The same for the same length."""
    return tuple(np.random.default_rng(length).integers(0, vocab_size, length).tolist())


def conversation_tokens(tokenizer: Path, count: int, longest: int) -> list[tuple[int, ...]]:
    """Token sequences of 1 to ``longest`` tokens, lengths spread evenly: beginnings of made-up conversations."""
    draw, encoder = Random(11), Tokenizer.from_file(str(tokenizer))
    lengths = [1 + index * longest // count for index in range(count)]
    return [tuple(encoder.encode(conversation_text(draw, length)).ids[:length]) for length in lengths]


def conversation_text(draw: Random, words: int) -> str:
    """Role lines of at least ``words`` words in mixed order."""
    vocabulary = " ".join(PHRASES).split()
    lines: list[str] = []
    while sum(len(line.split()) for line in lines) < words:
        role = draw.choice(("system", "user", "assistant"))
        lines.append(f"{role}: {' '.join(draw.choices(vocabulary, k=draw.randint(1, 40)))}")
    return "\n".join(lines)


def with_positions(folder: Path, count: int) -> Path:
    """A copy of the small model of the embedded artifact, stated to hold ``count`` tokens."""
    shutil.copytree(data_path("fixtures", "artifacts", "nano", "base"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": count}))
    return folder


def load_nano(profile: str, **options: Any) -> Router:
    """A router with the embedded artifact; the test is skipped in a checkout that does not carry it yet."""
    skip_without_nano()
    return load_router("nano", profile=profile, **options)


def skip_without_nano() -> None:
    """Skip the running test where the embedded artifact has not been built."""
    folder = data_path("fixtures", "artifacts", "nano")
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"the embedded artifact is not there: no manifest in {folder}")


def until_clock_ticks(*paths: Path) -> None:
    """Wait until whatever changes from now on is stamped later than ``paths``: the clock for that ticks seldom."""
    stamped = max(path.stat().st_ctime_ns for path in paths)
    probe = paths[0].with_name(f"{paths[0].name}.probe")
    probe.touch()
    while probe.stat().st_ctime_ns <= stamped:
        time.sleep(0.001)
        probe.touch()
    probe.unlink()


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """While this holds, the system lets this process write no file beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
