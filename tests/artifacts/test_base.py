"""Base models on disk: opened when whole, identified by content, refused with file and tensor when not."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import torch as torch_files
from transformers import Qwen3Config, Qwen3ForCausalLM

from trinity_mlx.artifacts.base import open_base, read_config
from trinity_mlx.contracts.access import Hub
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.errors import ArtifactError, ArtifactNotFound, BaseInvalid, TensorFileInvalid
from trinity_mlx.files.hashing import FileHashes
from trinity_mlx.files.safetensors import read_float32

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
TOKENIZER = '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """One tiny Qwen3 as transformers saves it: in a single file, in shards, and its tensors."""
    torch.manual_seed(0)
    numbers: dict[str, Any] = {**SIZES, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}
    config = Qwen3Config(**numbers)
    model = Qwen3ForCausalLM(config)
    root = tmp_path_factory.mktemp("saved")
    for name, limit in (("single", "1GB"), ("sharded", "6KB")):
        model.save_pretrained(root / name, max_shard_size=limit)
        (root / name / "tokenizer.json").write_text(TOKENIZER)
    return root / "single", root / "sharded", dict(model.state_dict())


@pytest.fixture
def single(saved: tuple[Path, Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "single"))


@pytest.fixture
def sharded(saved: tuple[Path, Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[1], tmp_path / "sharded"))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; ``...`` removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in torch_files.load_file(path).items()}
    change(tensors)
    torch_files.save_file(tensors, path)


def test_a_single_file_opens_with_the_configurations_numbers(single: Path) -> None:
    base = open_base(single)
    config = base.config
    numbers = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
    }
    assert numbers == SIZES
    assert (config.rms_norm_eps, config.rope_theta, config.tied_embeddings) == (1e-6, 1e6, True)
    assert base.tokenizer == single / "tokenizer.json"


@pytest.mark.parametrize("form", [0, 1])
def test_every_tensor_is_where_the_base_says(saved: tuple[Any, ...], form: int) -> None:
    base = open_base(saved[form])
    backbone = {name: tensor for name, tensor in saved[2].items() if name != "lm_head.weight"}
    assert base.config.backbone_shapes() == {name: tuple(tensor.shape) for name, tensor in backbone.items()}
    for name, tensor in backbone.items():
        assert torch.equal(torch.from_numpy(read_float32(base.tensors[name]).copy()), tensor)


def test_the_sharded_form_really_has_several_files(sharded: Path) -> None:
    assert len({tensor.path for tensor in open_base(sharded).tensors.values()}) > 2


def test_a_path_as_text_opens_the_same_base(single: Path) -> None:
    assert open_base(str(single)) == open_base(single)


@pytest.mark.parametrize("form", [0, 1])
def test_the_ref_does_not_depend_on_the_folder(saved: tuple[Path, Path, Any], tmp_path: Path, form: int) -> None:
    copy = shutil.copytree(saved[form], tmp_path / "another name")
    (copy / "README.md").write_text("more files change nothing")
    edit(copy / "config.json", _name_or_path="elsewhere")
    assert open_base(copy).ref == open_base(saved[form]).ref
    assert len(open_base(copy).ref) == 64


def in_an_hour() -> int:
    return time.time_ns() + 3600 * 10**9


def test_remembered_hashes_give_the_same_ref(single: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    refs = {open_base(single, hashes=FileHashes(memory, clock=in_an_hour)).ref for _ in range(2)}
    assert refs == {open_base(single).ref}
    assert memory.is_file()


@settings(max_examples=30)
@given(st.data())
def test_the_ref_changes_with_any_weight_byte(
    saved: tuple[Path, Path, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = shutil.copytree(saved[0], tmp_path_factory.getbasetemp() / "weights changed", dirs_exist_ok=True)
    content = bytearray((saved[0] / WEIGHTS).read_bytes())
    place = data.draw(st.integers(8 + struct.unpack("<Q", content[:8])[0], len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (copy / WEIGHTS).write_bytes(content)
    assert open_base(copy).ref != open_base(saved[0]).ref


def test_the_ref_changes_with_any_shard(sharded: Path) -> None:
    refs = {open_base(sharded).ref}
    shards = sorted(sharded.glob("*.safetensors"))
    for shard in shards:
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refs.add(open_base(sharded).ref)
    assert len(refs) == len(shards) + 1


def test_the_ref_changes_with_the_tokenizer(single: Path) -> None:
    before = open_base(single).ref
    (single / "tokenizer.json").write_text(TOKENIZER + " ")
    assert open_base(single).ref != before


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 1e-5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"max_position_embeddings": 65},
        {"tie_word_embeddings": False},
    ],
)
def test_the_ref_changes_with_any_number_of_the_configuration(single: Path, change: dict[str, Any]) -> None:
    before = open_base(single).ref
    edit(single / "config.json", **change)
    assert open_base(single).ref != before


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), r"config\.json is missing"),
        (remove("tokenizer.json"), r"no tokenizer\.json"),
        (remove(WEIGHTS), r"neither model\.safetensors nor"),
        (write("config.json", "{"), r"config\.json cannot be read as JSON"),
        (write("config.json", "[]"), r"config\.json is no JSON object"),
        (write("config.json", "[" * 100_000), r"config\.json cannot be read as JSON"),
        (config(model_type="llama"), r"config\.json: model_type is 'llama'"),
        (config(model_type=...), r"config\.json: model_type is None"),
        (config(attention_bias=True), r"config\.json: attention_bias is True"),
        (config(use_sliding_window=True), r"config\.json: use_sliding_window is True"),
        (config(hidden_act="gelu"), r"config\.json: hidden_act is 'gelu'"),
        (config(quantization_config={"bits": 4}), r"config\.json: quantization_config is"),
        (config(quantization={"bits": 4}), r"config\.json: quantization"),
        (config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), r"config\.json: RoPE scaling 'yarn'"),
        (config(rope_scaling={"type": "linear", "factor": 2.0}), r"config\.json: RoPE scaling 'linear'"),
        (config(rope_scaling="dynamic"), r"config\.json: RoPE scaling 'dynamic'"),
        (config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e6}), r"RoPE scaling 'llama3'"),
        (config(rope_parameters={"rope_type": "default"}), r"config\.json has no 'rope_theta'"),
        (config(rms_norm_eps=...), r"config\.json has no 'rms_norm_eps'"),
        (config(rms_norm_eps="small"), r"config\.json: rms_norm_eps is 'small', and a number above 0"),
        (config(rms_norm_eps=None), r"config\.json: rms_norm_eps is None, and a number above 0"),
        (config(rope_theta=[1]), r"config\.json: rope_theta is \[1\], and a number above 0"),
        (config(rope_theta=10**400), r"config\.json"),
        (config(head_dim=7), r"config\.json: .*head_dim even"),
        (config(num_key_value_heads=3), r"config\.json: heads must be a multiple"),
        (config(head_dim=...), r"config\.json has no 'head_dim'"),
        (config(hidden_size=0), r"config\.json: hidden_size is 0"),
        (config(hidden_size=-16), r"config\.json: hidden_size is -16"),
        (config(hidden_size=16.0), r"config\.json: hidden_size is 16\.0"),
        (config(hidden_size="16"), r"config\.json: hidden_size is '16'"),
        (config(num_hidden_layers=True), r"config\.json: num_hidden_layers is True"),
        (config(vocab_size=None), r"config\.json: vocab_size is None"),
    ],
)
def test_what_is_no_plain_qwen3_base_is_refused_by_file_and_reason(
    single: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(single)
    with pytest.raises(BaseInvalid, match=message) as caught:
        open_base(single)
    assert str(single) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_that_no_model_can_compute_with_are_refused(single: Path, number: str, value: float) -> None:
    edit(single / "config.json", **{number: value})
    with pytest.raises(BaseInvalid, match=number):
        read_config(single / "config.json")


@pytest.mark.parametrize("theta", [10_000, 1e6, 5_000_000])
def test_both_spellings_of_rope_theta_are_read(single: Path, theta: float) -> None:
    edit(single / "config.json", rope_parameters=..., rope_theta=theta)
    assert read_config(single / "config.json").rope_theta == theta
    edit(single / "config.json", rope_theta=..., rope_parameters={"rope_type": "default", "rope_theta": theta})
    assert read_config(single / "config.json").rope_theta == theta


KEYS = sorted([*SIZES, "model_type", "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling", "hidden_act"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["rope_type", "rope_theta"]), inner),
    max_leaves=3,
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, min_size=1, max_size=3))
def test_any_configuration_is_read_or_refused_as_invalid(
    saved: tuple[Path, Path, Any], tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    shutil.copy(saved[0] / "config.json", path)
    edit(path, **changes)
    try:
        numbers = read_config(path)
    except BaseInvalid as error:
        message = str(error)
    else:
        message = str(path)
        assert numbers.num_heads % numbers.num_kv_heads == 0
    assert str(path) in message


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[Q_PROJ]


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q_PROJ] = torch.zeros(32, 17)


def count(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q_PROJ] = torch.zeros(32, 16, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, f"has no tensor '{Q_PROJ}'"),
        (widen, rf"tensor '{Q_PROJ}' is shaped \[32, 17\], and \[32, 16\] is needed"),
        (count, f"tensor '{Q_PROJ}' is I32"),
    ],
)
def test_a_wrong_tensor_is_refused_by_file_and_name(
    single: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    rewrite(single / WEIGHTS, change)
    with pytest.raises(TensorFileInvalid, match=message) as caught:
        open_base(single)
    assert str(single) in str(caught.value)


@settings(max_examples=30)
@given(st.data())
def test_a_truncated_weight_file_is_refused_by_name(
    saved: tuple[Path, Path, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = shutil.copytree(saved[0], tmp_path_factory.getbasetemp() / "cut", dirs_exist_ok=True)
    content = (saved[0] / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(TensorFileInvalid, match=r"cut/model\.safetensors"):
        open_base(copy)


def test_a_config_that_promises_more_layers_is_refused_by_the_first_missing_tensor(single: Path) -> None:
    edit(single / "config.json", num_hidden_layers=3)
    with pytest.raises(TensorFileInvalid, match=r"no tensor 'model\.layers\.2\.input_layernorm\.weight'"):
        open_base(single)


def test_a_missing_shard_is_refused_by_name(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(TensorFileInvalid, match=shard.name):
        open_base(sharded)


def test_a_tensor_that_is_not_in_the_shard_that_the_index_names_is_refused(sharded: Path) -> None:
    shards = json.loads((sharded / INDEX).read_text())["weight_map"]
    wrong = next(shard for shard in shards.values() if shard != shards[Q_PROJ])
    edit(sharded / INDEX, weight_map={**shards, Q_PROJ: wrong})
    with pytest.raises(TensorFileInvalid, match=f"{wrong} has no tensor '{Q_PROJ}'"):
        open_base(sharded)


def test_an_index_that_leaves_a_tensor_out_is_refused(sharded: Path) -> None:
    shards = json.loads((sharded / INDEX).read_text())["weight_map"]
    edit(sharded / INDEX, weight_map={name: shard for name, shard in shards.items() if name != Q_PROJ})
    with pytest.raises(TensorFileInvalid, match=Q_PROJ):
        open_base(sharded)


@pytest.mark.parametrize(
    "weight_map",
    [
        ...,
        None,
        [],
        "x",
        {"a": 3},
        {"a": "../model.safetensors"},
        {"a": "/etc/model.safetensors"},
        {"a": "model.bin"},
        {"a": "sub/model.safetensors"},
        {"a": ""},
    ],
)
def test_an_index_without_a_map_to_files_beside_it_is_refused(sharded: Path, weight_map: Any) -> None:
    edit(sharded / INDEX, weight_map=weight_map)
    with pytest.raises(BaseInvalid, match=r"index\.json has no weight_map"):
        open_base(sharded)


@pytest.mark.parametrize("shard", ["a\0.safetensors", "\ud800.safetensors", "x" * 300 + ".safetensors"])
def test_an_index_with_a_name_that_no_file_can_have_is_refused(sharded: Path, shard: str) -> None:
    edit(sharded / INDEX, weight_map={"a": shard})
    with pytest.raises(ArtifactError, match=r"index\.json|xxx"):
        open_base(sharded)


def test_an_index_that_is_not_json_is_refused(sharded: Path) -> None:
    (sharded / INDEX).write_text("{")
    with pytest.raises(BaseInvalid, match=r"index\.json cannot be read as JSON"):
        open_base(sharded)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/no/such/folder", "./nowhere/here/now", "a b/c", "x\0y"])
def test_a_folder_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(ArtifactNotFound, match="no base at") as caught:
        open_base(name)
    assert "OWNER/NAME" in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "~no-such-user-here/base"])
def test_a_name_that_no_folder_can_have_is_not_found(name: str) -> None:
    with pytest.raises(ArtifactNotFound):
        open_base(name)


def test_a_path_object_is_never_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="no base at owner/name"):
        open_base(Path("owner/name"))


@pytest.fixture
def offline(tmp_path: Path) -> Hub:
    return Hub(cache=tmp_path / "cache", is_offline=True)


@pytest.mark.parametrize(
    ("source", "revision", "named"),
    [
        ("owner/name", None, "owner/name@main"),
        ("owner/name", "v1", "owner/name@v1"),
        ("owner/name@v2", None, "owner/name@v2"),
        ("owner/name@v2", "v1", "owner/name@v2"),
        ("owner/-.-name--", None, "owner/-.-name--@main"),
    ],
)
def test_a_hub_base_that_cannot_be_had_is_one_clear_line(
    offline: Hub, source: str, revision: str | None, named: str
) -> None:
    with pytest.raises(ArtifactNotFound) as caught:
        open_base(source, revision, hub=offline)
    message = str(caught.value)
    assert message.startswith(f"base {named} cannot be had from the Hugging Face Hub: ")
    assert "\n" not in message


def test_a_hub_base_in_the_cache_needs_no_network(saved: tuple[Path, Path, Any], offline: Hub, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--owner--name" / "snapshots" / ("1" * 40)
    shutil.copytree(saved[0], snapshot)
    found: Base = open_base("owner/name", revision="1" * 40, hub=offline)
    assert found.folder == snapshot
    assert found.ref == open_base(saved[0]).ref


@pytest.mark.timeout(300)
@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "head_dim"])
@pytest.mark.parametrize("value", [3_298_534_883_327, 10**400], ids=["3e12", "1e400"])
def test_a_number_beyond_every_model_is_refused_at_once(single: Path, tmp_path: Path, key: str, value: int) -> None:
    copy = shutil.copytree(single, tmp_path / "base")
    edit(copy / "config.json", **{key: value})
    with pytest.raises(BaseInvalid, match=f"{key} is .*a whole number from 1 to") as refused:
        open_base(copy)
    assert len(str(refused.value)) < 400
