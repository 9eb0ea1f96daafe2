"""What an export writes, held against decompositions by numpy in float64 and files read by other libraries."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import check_fit
from trinity_mlx.artifacts.published import AGENTS
from trinity_mlx.contracts.artifact import Base, Execution, TensorLocation
from trinity_mlx.contracts.errors import (
    BundleInvalid,
    TensorFileInvalid,
    TrinityError,
    UsageError,
    VectorInvalid,
)
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.request import ExportRequest, Method, TiedEmbedding, Write
from trinity_mlx.profiles.backends import load_backend

from .. import builders
from ..builders import BACKENDS, EMBEDDING, MATRICES, svf_in_float64

HEAD = "lm_head.weight"
HIDDEN = builders.TINY["hidden_size"]


def layout(base: Base, layers: tuple[int, ...] = (1,)) -> list[str]:
    """The adapted tensors in the order of the vector."""
    return [EMBEDDING, *(f"model.layers.{layer}.{matrix}.weight" for layer in layers for matrix in MATRICES), HEAD]


def make_vector(path: Path, tensors: int = 9, rows: int = 10, scale: float = 0.2) -> Path:
    """A random vector for the tiny base: 64 offsets for each tensor, then the head."""
    np.save(path, np.random.default_rng(7).normal(0, scale, HIDDEN * (tensors + rows)))
    return path


def offsets_of(vector: Path, index: int) -> np.ndarray:
    return np.load(vector)[HIDDEN * index : HIDDEN * (index + 1)]


def weight(base: Base, name: str) -> np.ndarray:
    """A source tensor in float64, as torch reads it; a tied ``lm_head`` is the embedding."""
    tensors = load_file(base.folder / "model.safetensors")
    return tensors.get(name, tensors[EMBEDDING]).double().numpy()


def adapted(base: Base, folder: Path, name: str) -> np.ndarray:
    """The adapted tensor that the bundle in ``folder`` stands for, in float64."""
    held = load_file(folder / "adapter.safetensors")[name].double().numpy()
    entries = json.loads((folder / "manifest.json").read_text())["adapter"]["entries"]
    execution = next(entry["execution"] for entry in entries if entry["source"] == name)
    return builders.changed_by(Execution(execution), weight(base, name), held)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle, the event log aside, which has times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "export.log.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vector(tmp_path_factory.mktemp("vector") / "vector.npy")


@pytest.fixture
def request_for(tiny_base: Base, vector: Path, tmp_path: Path) -> Any:
    def build(**changes: Any) -> ExportRequest:
        plain = ExportRequest(tiny_base, "test/tiny", vector, tmp_path / "out", load_backend("torch"))
        return replace(plain, **changes)

    return build


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("write", Write)
def test_every_tensor_is_adapted_as_the_definition_says(
    request_for: Any, tiny_base: Base, vector: Path, name: str, write: Write
) -> None:
    request = request_for(backend=load_backend(name), write=write)
    bundle = export(request)
    check_fit(bundle, tiny_base)
    for index, tensor in enumerate(layout(tiny_base)):
        expected = svf_in_float64(weight(tiny_base, tensor), offsets_of(vector, index))
        assert_close(adapted(tiny_base, request.out, tensor), expected)


def test_the_factors_are_the_same_bytes_on_every_backend(request_for: Any, tmp_path: Path) -> None:
    for name in BACKENDS:
        export(request_for(backend=load_backend(name), out=tmp_path / name))
    assert len({(tmp_path / name / "adapter.safetensors").read_bytes() for name in BACKENDS}) == 1


@pytest.mark.parametrize("name", BACKENDS)
def test_factored_and_merged_route_alike(
    request_for: Any, tiny_base: Base, vector: Path, tmp_path: Path, name: str
) -> None:
    tokens = tuple(range(5, 45))
    hidden = []
    for write in Write:
        bundle = export(request_for(write=write, out=tmp_path / write))
        hidden.append(builders.hidden(builders.cpu_model(name, tiny_base, bundle), *builders.fresh(tokens[:-1]))[0])
    names = layout(tiny_base)[:-1]
    recipe = builders.adapted_recipe(tiny_base, {each: offsets_of(vector, i) for i, each in enumerate(names)})
    assert builders.relative(hidden[0], hidden[1]) <= 1e-4
    assert builders.relative(hidden[0], recipe.hidden(tokens)) <= 1e-4


def test_the_head_is_the_rest_of_the_vector(request_for: Any, vector: Path) -> None:
    request = request_for()
    bundle = export(request)
    head = load_file(request.out / "router_head.safetensors")["trinity_router_head"]
    np.testing.assert_array_equal(head.numpy(), np.load(vector)[9 * HIDDEN :].reshape(10, HIDDEN).astype(np.float32))
    assert bundle.head.labels == AGENTS


@pytest.mark.parametrize("write", Write)
def test_the_same_request_gives_the_same_bytes(request_for: Any, tmp_path: Path, write: Write) -> None:
    for out in ("one", "other"):
        export(request_for(out=tmp_path / out, name="router", write=write))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_the_whole_decomposition_gives_the_same_adapter(request_for: Any, tiny_base: Base, tmp_path: Path) -> None:
    for method in Method:
        export(request_for(out=tmp_path / method, method=method))
    for tensor in layout(tiny_base):
        found, expected = (adapted(tiny_base, tmp_path / method, tensor) for method in ("svd", "gram"))
        assert_close(found, expected, 1e-3)


@pytest.mark.parametrize("name", BACKENDS)
def test_merged_tensors_keep_the_number_type_of_their_source(vector: Path, tmp_path: Path, name: str) -> None:
    base = builders.make_base(tmp_path / "base", dtype=torch.bfloat16)
    request = ExportRequest(base, "b", vector, tmp_path / "out", load_backend(name), write=Write.MERGED)
    export(request)
    held = load_file(request.out / "adapter.safetensors")
    for index, tensor in enumerate(layout(base)):
        assert held[tensor].dtype == torch.bfloat16
        exact = torch.from_numpy(svf_in_float64(weight(base, tensor), offsets_of(vector, index)))
        assert torch.allclose(held[tensor].double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("write", Write)
@pytest.mark.parametrize("choice", TiedEmbedding)
def test_a_tied_embedding_takes_the_chosen_offsets(
    request_for: Any, tiny_base: Base, vector: Path, choice: TiedEmbedding, write: Write
) -> None:
    request = request_for(tied_embedding=choice, write=write)
    export(request)
    source, own, last = weight(tiny_base, EMBEDDING), offsets_of(vector, 0), offsets_of(vector, 8)
    once = {"embed_tokens": own, "lm_head": last, "compound": own}[choice]
    expected = svf_in_float64(source, once)
    if choice is TiedEmbedding.COMPOUND:
        expected = svf_in_float64(expected, last)
    assert_close(adapted(tiny_base, request.out, EMBEDDING), expected)
    alone = svf_in_float64(source, last) if choice is TiedEmbedding.EMBED_TOKENS else expected
    assert_close(adapted(tiny_base, request.out, HEAD), alone)
    assert json.loads((request.out / "manifest.json").read_text())["tied_embedding"] == choice


def with_lm_head(base: Base, folder: Path, change: float, *, tied: bool) -> Base:
    """A copy of ``base`` whose file holds ``lm_head.weight``, the embedding plus ``change``."""
    folder.mkdir()
    tensors = load_file(base.folder / "model.safetensors")
    save_file(tensors | {HEAD: tensors[EMBEDDING] + change}, folder / "model.safetensors")
    config = json.loads((base.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    (folder / "tokenizer.json").write_bytes(base.tokenizer.read_bytes())
    return open_base(folder)


class Watched:
    """A backend that counts which tensors are decomposed."""

    def __init__(self) -> None:
        self._backend = load_backend("torch")
        self.sums: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def factorizer(self, device: str) -> Any:
        factorizer = self._backend.factorizer(device)
        original = factorizer.gram

        def gram(tensor: TensorLocation, tick: Any = None) -> np.ndarray:
            self.sums[tensor.name] += 1
            return original(tensor, tick)

        factorizer.gram = gram  # type: ignore[method-assign]
        return factorizer


def test_a_source_under_two_names_is_decomposed_once(request_for: Any, tiny_base: Base) -> None:
    watched = Watched()
    export(request_for(backend=watched))
    assert watched.sums == Counter(layout(tiny_base)[:-1])


@pytest.mark.parametrize(("change", "tied", "sums"), [(0.0, True, 0), (0.5, True, 1), (0.0, False, 1)])
def test_lm_head_is_the_embedding_only_where_it_is(
    request_for: Any, tiny_base: Base, vector: Path, tmp_path: Path, change: float, tied: bool, sums: int
) -> None:
    base, watched = with_lm_head(tiny_base, tmp_path / "base", change, tied=tied), Watched()
    request = request_for(base=base, backend=watched)
    export(request)
    assert watched.sums[HEAD] == sums
    assert_close(
        adapted(base, request.out, HEAD), svf_in_float64(weight(base, HEAD), offsets_of(vector, 8)), tolerance=2e-6
    )


@pytest.mark.parametrize("choice", [TiedEmbedding.LM_HEAD, TiedEmbedding.COMPOUND])
def test_a_base_that_is_not_tied_has_no_such_choice(
    request_for: Any, tiny_base: Base, tmp_path: Path, choice: TiedEmbedding
) -> None:
    base = with_lm_head(tiny_base, tmp_path / "base", 0.5, tied=False)
    with pytest.raises(UsageError, match="keeps lm_head apart"):
        export(request_for(base=base, tied_embedding=choice))


def test_an_untied_base_without_lm_head_is_refused(request_for: Any, tiny_base: Base) -> None:
    base = replace(tiny_base, config=replace(tiny_base.config, tied_embeddings=False))
    with pytest.raises(TensorFileInvalid, match=r"no tensor 'lm_head.weight'"):
        export(request_for(base=base))


def test_a_float32_safetensors_vector_is_as_good(request_for: Any, vector: Path, tmp_path: Path) -> None:
    rounded = np.load(vector).astype(np.float32)
    save_file({"trinity_router_es_vector": torch.from_numpy(rounded)}, tmp_path / "v.safetensors")
    np.save(tmp_path / "v.npy", rounded)
    adapters = []
    for name in ("v.npy", "v.safetensors"):
        request = request_for(vector=tmp_path / name, out=tmp_path / f"of-{name}")
        export(request)
        adapters.append((request.out / "adapter.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_other_layers_and_agents(request_for: Any, tiny_base: Base, tmp_path: Path) -> None:
    vector = make_vector(tmp_path / "v.npy", tensors=16, rows=5)
    request = request_for(vector=vector, layers=(2, 0), agents=("one", "two"))
    bundle = export(request)
    assert bundle.head.labels == ("one", "two")
    for index, tensor in enumerate(layout(tiny_base, (2, 0))):
        expected = svf_in_float64(weight(tiny_base, tensor), offsets_of(vector, index))
        assert_close(adapted(tiny_base, request.out, tensor), expected)


def test_only_some_tensors(request_for: Any, tiny_base: Base, vector: Path) -> None:
    only = (layout(tiny_base)[4], EMBEDDING)
    request = request_for(only=only)
    bundle = export(request)
    assert [entry.source for entry in bundle.adapter.entries] == [EMBEDDING, only[0]]
    expected = svf_in_float64(weight(tiny_base, only[0]), offsets_of(vector, 4))
    assert_close(adapted(tiny_base, request.out, only[0]), expected)


def test_the_manifest_says_what_the_bundle_was_made_from(request_for: Any, tiny_base: Base, vector: Path) -> None:
    import hashlib

    request = request_for(text_format=TextFormat.QWEN3_CHAT, base_revision="abc", name="mine")
    bundle = export(request)
    manifest = json.loads((request.out / "manifest.json").read_text())
    assert (bundle.name, bundle.text_format) == ("mine", TextFormat.QWEN3_CHAT)
    assert manifest["base"] == {"id": "test/tiny", "revision": "abc", "ref": tiny_base.ref, "folder": None}
    assert manifest["lineage"] == {
        "base": tiny_base.ref,
        "vector": hashlib.sha256(vector.read_bytes()).hexdigest(),
    }
    made = manifest["made"]
    assert (made["method"], made["write"], made["backend"], made["device"]) == ("gram", "factored", "torch", "cpu")
    assert made["torch"] == torch.__version__
    assert made["numpy"] == np.__version__
    assert [entry["source"] for entry in manifest["vector"]] == layout(tiny_base)
    assert manifest["vector"][2] == {
        "source": "model.layers.1.self_attn.k_proj.weight",
        "shape": [64, 64],
        "start": 2 * HIDDEN,
        "end": 3 * HIDDEN,
    }
    assert [entry["path"] for entry in manifest["files"]] == [
        "README.md",
        "adapter.safetensors",
        "router_head.safetensors",
    ]


def test_the_card_names_what_a_reader_needs(request_for: Any, tiny_base: Base) -> None:
    request = request_for(name="mine")
    export(request)
    card = (request.out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# mine\n")
    for needed in ("test/tiny", tiny_base.ref, "embed_tokens", "role-lines", *AGENTS, *layout(tiny_base)):
        assert needed in card


def test_a_router_is_named_after_its_folder(request_for: Any, tmp_path: Path) -> None:
    assert export(request_for(out=tmp_path / "my-router")).name == "my-router"


def test_events_tell_the_time_of_every_tensor_and_count_all_work(request_for: Any, tiny_base: Base) -> None:
    events: list[Any] = []
    request = request_for(write=Write.MERGED)
    export(request, events.append)
    log = [json.loads(line) for line in (request.out / "export.log.jsonl").read_text().splitlines()]
    assert [event.kind for event in events if event.kind != "tile"] == [line["event"] for line in log]
    finished = [line for line in log if line["event"] == "tensor_finished"]
    assert [line["tensor"] for line in finished] == layout(tiny_base)
    assert all(line["decompose_s"] >= 0 and line["write_s"] > 0 for line in finished)
    assert log[0]["flops"] == sum(line["flops"] for line in finished)
    assert 0 < sum(event.fields["flops"] for event in events if event.kind == "tile") < log[0]["flops"]
    assert (log[0]["event"], log[-1]["event"]) == ("export_started", "export_finished")


def write_npy(path: Path, values: Any) -> Path:
    np.save(path, values)
    return path


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        (9 * HIDDEN, "576 - 576 = 0"),
        (9 * HIDDEN - 1, "575 - 576 = -1"),
        (9 * HIDDEN + 100, "676 - 576 = 100"),
        (12 * HIDDEN, "768 - 576 = 192 make a head of 3 rows"),
        (14 * HIDDEN, "5 - 3 roles = 2 agents, and the published labels are for 7"),
    ],
)
def test_a_vector_that_does_not_add_up_is_refused_with_the_arithmetic(
    request_for: Any, tmp_path: Path, numbers: int, says: str
) -> None:
    vector = write_npy(tmp_path / "v.npy", np.zeros(numbers))
    with pytest.raises((VectorInvalid, BundleInvalid, UsageError)) as caught:
        export(request_for(vector=vector))
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"agents": ("a", "b")}, "2 agent labels"),
        ({"agents": ("a", "b", "c", "d", "e", "f", "a")}, "a label of its own"),
        ({"agents": ("a", "b", "c", "d", "e", "f", " ")}, "a label of its own"),
        ({"layers": (3,)}, "from 0 to 2"),
        ({"layers": (-1,)}, "from 0 to 2"),
        ({"layers": (1, 1)}, "once"),
        ({"layers": ()}, "none"),
        ({"only": ("model.norm.weight",)}, "no tensor 'model.norm.weight'"),
        ({"only": ()}, "no tensor"),
        ({"resume": True, "force": True}, "one of them"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(request_for: Any, changes: dict[str, Any], says: str) -> None:
    request = request_for(**changes)
    with pytest.raises(UsageError, match=says):
        export(request)
    assert not request.out.exists()


def bad_vectors(folder: Path) -> Iterator[tuple[str, Path, str]]:
    good = np.zeros(19 * HIDDEN)
    spoilt = good.copy()
    spoilt[[5, 9]] = np.nan, np.inf
    yield "missing", folder / "gone.npy", "No such file"
    yield "ending", write_npy(folder / "v.npy", good).rename(folder / "v.bin"), "'.bin'"
    yield "shape", write_npy(folder / "shape.npy", good.reshape(19, HIDDEN)), r"\[19, 64\]"
    yield "type", write_npy(folder / "type.npy", good.astype(np.int64)), "int64"
    yield "not finite", write_npy(folder / "nan.npy", spoilt), "2 of 1216 numbers are not finite; the first is at 5"
    yield "pickle", write_npy(folder / "pickle.npy", np.array([{}], dtype=object)), "not a .npy file of numbers"
    truncated = write_npy(folder / "short.npy", good)
    truncated.write_bytes(truncated.read_bytes()[:300])
    yield "truncated", truncated, "not a .npy file of numbers"
    (folder / "empty.npy").write_bytes(b"")
    yield "empty", folder / "empty.npy", "not a .npy file of numbers"
    for what, begin in broken_beginnings(write_npy(folder / "whole.npy", good).read_bytes()):
        (folder / f"{what}.npy").write_bytes(begin)
        yield what, folder / f"{what}.npy", "not a .npy file of numbers"
    os.mkfifo(folder / "pipe.npy")
    yield "pipe", folder / "pipe.npy", "no regular file"
    yield "long name", folder / ("v" * 300 + ".npy"), "cannot be read"
    np.savez(folder / "archive", good)
    yield "archive", (folder / "archive.npz").rename(folder / "archive.npy"), "archive"
    save_file({"a": torch.zeros(3), "b": torch.zeros(3)}, folder / "two.safetensors")
    yield "two tensors", folder / "two.safetensors", "holds a, b"
    save_file({"a": torch.zeros(3, dtype=torch.int32)}, folder / "int.safetensors")
    yield "whole numbers", folder / "int.safetensors", "I32"
    (folder / "junk.safetensors").write_bytes(b"junk")
    yield "junk", folder / "junk.safetensors", "truncated or no safetensors file"


def broken_beginnings(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """A ``.npy`` file with other first bytes: numpy's own reader ends each with an error of another kind."""
    yield "PK in front", b"PK\x03\x04" + whole
    yield "torn header", whole.replace(b"'shape': (", b"'shape': ((")
    yield "no header", whole.replace(b"{'descr'", b"['descr'")
    yield "36 TB", whole.replace(b"(1216,)", b"(4503599627370496,)")
    yield "negative", whole.replace(b"(1216,)", b"(-1216,)")
    yield "deep", whole[:8] + (3000).to_bytes(2, "little") + b"(" * 3000 + whole
    yield "long", whole[:8] + (60000).to_bytes(2, "little") + b" " * 60000 + whole


def test_a_malformed_vector_is_refused(request_for: Any, tmp_path: Path) -> None:
    for what, vector, says in bad_vectors(tmp_path):
        with pytest.raises((VectorInvalid, TensorFileInvalid), match=says):
            export(request_for(vector=vector))
        assert not (tmp_path / "out").exists(), what


def test_a_source_that_is_not_finite_is_named(request_for: Any, tiny_base: Base, tmp_path: Path) -> None:
    tensors = load_file(tiny_base.folder / "model.safetensors")
    name = layout(tiny_base)[3]
    tensors[name][2, 2] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((tiny_base.folder / file).read_bytes())
    with pytest.raises(TensorFileInvalid, match=f"{name}.*NaN"):
        export(request_for(base=open_base(tmp_path)))


def test_offsets_that_cancel_the_singular_values_are_named(request_for: Any, tmp_path: Path) -> None:
    numbers = np.zeros(19 * HIDDEN)
    numbers[HIDDEN : 2 * HIDDEN] = -1
    with pytest.raises(VectorInvalid, match=r"q_proj.*zero"):
        export(request_for(vector=write_npy(tmp_path / "v.npy", numbers)))


def test_zero_offsets_change_no_byte(request_for: Any, tiny_base: Base, tmp_path: Path) -> None:
    request = request_for(vector=write_npy(tmp_path / "v.npy", np.zeros(19 * HIDDEN)), write=Write.MERGED)
    export(request)
    sources = load_file(tiny_base.folder / "model.safetensors")
    for name, tensor in load_file(request.out / "adapter.safetensors").items():
        assert torch.equal(tensor, sources.get(name, sources[EMBEDDING]))


def test_every_refusal_is_one_for_people(request_for: Any, tmp_path: Path) -> None:
    with pytest.raises(TrinityError) as caught:
        export(request_for(vector=tmp_path / "gone.npy"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "gone.npy") in str(caught.value)
