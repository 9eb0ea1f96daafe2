"""Base models in Hugging Face layout: found, checked and identified by content, before any framework loads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..contracts.access import Hub
from ..contracts.artifact import BackboneConfig, Base, TensorLocation
from ..contracts.canonical import canonical_sha256
from ..contracts.errors import ArtifactNotFound, BaseInvalid, TensorFileInvalid
from ..files import safetensors
from ..files.hashing import FileHashes
from ..files.paths import existing_folder
from ..files.regular import read_regular

HUB_FILES = ["config.json", "tokenizer.json", "*.safetensors", "model.safetensors.index.json"]
_LARGEST = 1e30
_LARGEST_SIZE = 2**31
_MOST_LAYERS = 4096
"""Names and shapes are listed for as many layers as a configuration claims, before any of them is looked for."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_NAME = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
}


def open_base(
    source: str | Path,
    revision: str | None = None,
    hashes: FileHashes | None = None,
    *,
    hub: Callable[[], Hub] = Hub,
) -> Base:
    """A base from a local folder, or from the Hugging Face Hub as ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    Every tensor that a route reads is located and its shape compared with the configuration. ``hub`` is asked where
    the base is not a folder.

    Raises:
        ArtifactNotFound: no such folder, or the Hub cannot provide it.
        BaseInvalid: a file is missing, or the configuration is not a plain Qwen3.
        TensorFileInvalid: a weight file is truncated or corrupt, or a tensor is missing or has another shape.
    """
    folder = _locate(source, revision, hub)
    config = read_config(folder / "config.json")
    tensors = _read_tensors(folder)
    for name, shape in config.backbone_shapes().items():
        safetensors.require(tensors, name, shape, folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise BaseInvalid(f"{folder} has no tokenizer.json: a base needs its own tokenizer")
    ref = _content_ref(config, {tensor.path for tensor in tensors.values()}, tokenizer, hashes or FileHashes())
    return Base(folder, config, tensors, tokenizer, ref)


def read_config(path: Path) -> BackboneConfig:
    """The backbone's numbers from a Hugging Face ``config.json``.

    Raises:
        BaseInvalid: the file is missing or malformed, or asks for what a plain Qwen3 backbone does not have.
    """
    raw = _read_json(path)
    _refuse_variants(path, raw)
    rope = raw.get("rope_parameters") or {}
    try:
        sizes = {field: _positive(path, key, raw[key]) for field, key in _SIZES.items()}
        eps = _positive_number(path, "rms_norm_eps", raw["rms_norm_eps"])
        theta = _positive_number(path, "rope_theta", raw.get("rope_theta") or rope["rope_theta"])
    except KeyError as error:
        raise BaseInvalid(f"{path} has no {error.args[0]!r}") from None
    except TypeError:
        raise BaseInvalid(f"{path}: rope_parameters is {rope!r}, and an object is needed") from None
    if sizes["num_heads"] % sizes["num_kv_heads"] or sizes["head_dim"] % 2:
        raise BaseInvalid(f"{path}: heads must be a multiple of key/value heads, and head_dim even: {sizes}")
    return BackboneConfig(
        **sizes, rms_norm_eps=eps, rope_theta=theta, tied_embeddings=bool(raw.get("tie_word_embeddings", False))
    )


def _locate(source: str | Path, revision: str | None, hub: Callable[[], Hub]) -> Path:
    folder = existing_folder(source)
    if folder:
        return folder
    name, _, named_revision = str(source).partition("@")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(name):
        raise ArtifactNotFound(f"no base at {source}: give a folder in Hugging Face layout, or OWNER/NAME[@REVISION]")
    return _download(name, named_revision or revision, hub())


def _download(name: str, revision: str | None, hub: Hub) -> Path:
    """The Hub's snapshot of a repository, from its cache where it is complete; no token is sent but the hub's own."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=HUB_FILES,
            token=hub.token or False,
            endpoint=hub.endpoint,
            cache_dir=hub.cache,
            local_files_only=hub.is_offline,
        )
    except Exception as error:  # its own, those of the network, and any other where a server answers as no Hub does
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactNotFound(
            f"base {name}@{revision or 'main'} cannot be had from the Hugging Face Hub: {reason.rstrip('.')}. "
            f"Check the name, the network and the token{'' if hub.token else ' (none was given)'}, "
            "or name a local folder."
        ) from None
    return Path(folder)


def _read_tensors(folder: Path) -> dict[str, TensorLocation]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        if not single.is_file():
            raise BaseInvalid(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
        return safetensors.read_header(single)
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(_is_file_name(shard) for shard in shards.values()):
        raise BaseInvalid(f"{index} has no weight_map from tensor names to file names beside it")
    headers = {shard: safetensors.read_header(folder / shard) for shard in sorted(set(shards.values()))}
    return {name: _in_shard(folder, headers[shard], shard, name) for name, shard in shards.items()}


def _in_shard(folder: Path, header: Mapping[str, TensorLocation], shard: str, name: str) -> TensorLocation:
    if name not in header:
        raise TensorFileInvalid(f"{folder / shard} has no tensor {name!r}, where the index places it")
    return header[name]


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_FILE_NAME.fullmatch(value)) and not value.startswith(".")


def _refuse_variants(path: Path, raw: Mapping[str, Any]) -> None:
    """Say no to what would run, but wrongly: another architecture, biases, scaled RoPE, windows, quantised weights."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    refused = {
        "model_type": raw.get("model_type") != "qwen3",
        "attention_bias": bool(raw.get("attention_bias")),
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "quantization_config": bool(raw.get("quantization_config") or raw.get("quantization")),
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise BaseInvalid(f"{path}: {key} is {raw.get(key)!r}; only a plain, unquantised qwen3 base can route")
    if kind != "default":
        raise BaseInvalid(f"{path}: RoPE scaling {kind!r} is not supported; only a plain qwen3 base can route")


def _positive(path: Path, key: str, value: Any) -> int:
    most = _MOST_LAYERS if key == "num_hidden_layers" else _LARGEST_SIZE
    if type(value) is not int or not 1 <= value <= most:
        raise BaseInvalid(f"{path}: {key} is {value!r:.50}, and a whole number from 1 to {most} is needed")
    return value


def _positive_number(path: Path, key: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < _LARGEST:
        raise BaseInvalid(f"{path}: {key} is {value!r:.50}, and a number above 0 is needed")
    return float(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(read_regular(path))
    except FileNotFoundError:
        raise BaseInvalid(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BaseInvalid(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise BaseInvalid(f"{path} is no JSON object")
    return raw


def _content_ref(config: BackboneConfig, weights: set[Path], tokenizer: Path, hashes: FileHashes) -> str:
    """sha256 over the canonical JSON of configuration, weight file hashes and tokenizer hash."""
    try:
        return canonical_sha256(
            {
                "config": {key: repr(value) for key, value in asdict(config).items()},
                "weights": {path.name: hashes.sha256(path) for path in weights},
                "tokenizer": hashes.sha256(tokenizer),
            }
        )
    except OSError as error:
        raise BaseInvalid(f"{error.filename} cannot be read: {error.strerror}") from None
