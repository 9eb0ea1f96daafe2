"""From names to a router: artifact, base, profile and backend brought together and checked against each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from ..artifacts.base import open_base
from ..artifacts.bundle import check_fit
from ..artifacts.catalog import find_bundle
from ..contracts.backend import Kernels, Variant
from ..contracts.errors import BaseInvalid
from ..contracts.routing import ArtifactIdentity
from ..files.hashing import FileHashes
from ..profiles.backends import load_backend
from ..profiles.registry import AUTO, DTypeName, ProfileRegistry
from .leases import REGISTRY
from .reader import Reader
from .router import Router, RouterIdentity
from .tokenizer import Tokenizer

CACHE_BYTES = 512 * 1024 * 1024


def load_router(
    artifact: str | Path = "nano",
    base: str | Path | None = None,
    profile: str = AUTO,
    dtype: DTypeName | None = None,
    *,
    execution: Literal["factored", "merged"] = "factored",
    kernels: Kernels = "fused",
    quantize: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    config_dir: Path | None = None,
    hash_memory: Path | None = None,
) -> Router:
    """Load a router. Routers of the same artifact on the same profile share one model, found in ``routing.leases``.

    Args:
        artifact: the name of an embedded artifact, or a bundle's folder.
        base: a folder in Hugging Face layout, or ``OWNER/NAME[@REVISION]`` on the Hub; by default the bundle's own.
        profile: a runtime profile's name, or ``auto`` for the best one here.
        dtype: the number type of the model; by default the profile's.
        execution: apply the adapter to activations, or merge it into copies of the weights that it changes.
        kernels: the framework's fused kernels, or the same composed from plain operations: slower, and a check on them.
        quantize: keep the base's matrices in 8 or 4 bits (MLX), or 8 (torch on the CPU); by default in ``dtype``.
        cache_bytes: how much may be kept of keys and values for transcripts that continue; 0 remembers nothing.
        config_dir: a folder whose ``profiles/*.toml`` add to the built-in profiles.
        hash_memory: a file that remembers the hashes of large weight files between runs.

    Raises:
        UnknownProfile, ProfileInvalid, ProfileUnavailable: the profile cannot be used, or not with such a quantisation.
        UsageError: ``kernels`` or ``quantize`` is unknown, or the shapes of this base cannot be quantised.
        ArtifactNotFound, BundleInvalid, TensorFileInvalid, BaseInvalid: a part is missing or broken.
        BaseMismatch: the bundle was made for another base.
    """
    started = time.perf_counter()
    variant = Variant(kernels, quantize)
    hashes = FileHashes(hash_memory)
    bundle = find_bundle(artifact, hashes)
    chosen, device = ProfileRegistry(config_dir).resolve(profile)
    source = (
        open_base(base, hashes=hashes)
        if base
        else open_base(bundle.base_folder or bundle.base_id, bundle.base_revision, hashes)
    )
    check_fit(bundle, source)
    tokenizer = Tokenizer(source.tokenizer)
    if tokenizer.vocab_size > source.config.vocab_size:
        raise BaseInvalid(
            f"{source.tokenizer} has ids up to {tokenizer.vocab_size - 1}, "
            f"and the base embeds {source.config.vocab_size}"
        )
    number_type = dtype or chosen.dtype
    lease = REGISTRY.lease(
        load_backend(chosen.backend),
        source,
        bundle.adapter,
        bundle.head,
        device=device,
        dtype=number_type,
        merged=execution == "merged",
        variant=variant,
    )
    identity = RouterIdentity(
        artifact=ArtifactIdentity(bundle.name, bundle.adapter.ref, source.ref),
        head_ref=bundle.head.ref,
        labels=bundle.head.labels,
        text_format=bundle.text_format,
        max_positions=source.config.max_positions,
        profile=chosen.name,
        device=device,
        dtype=number_type,
        variant=variant,
        load_ms=(time.perf_counter() - started) * 1000,
    )
    return Router(identity, tokenizer, Reader(lease.value.model, cache_bytes), lease.release)
