"""From names to a router: artifact, base, profile and backend brought together and checked against each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from ..artifacts.base import open_base
from ..artifacts.bundle import check_fit
from ..artifacts.catalog import find_bundle
from ..contracts.access import Hub
from ..contracts.artifact import Base, Bundle, PatchReceipt
from ..contracts.backend import Backend, Kernels, Variant
from ..contracts.errors import ArtifactNotFound, BaseInvalid
from ..contracts.routing import ArtifactIdentity, Window
from ..downloads.pins import shipped_pins
from ..files.hashing import FileHashes
from ..files.paths import existing_folder
from ..profiles.backends import load_backend
from ..profiles.registry import AUTO, DTypeName, Machine, Profile, ProfileRegistry, profile_of
from ..sharing.leases import Lease
from .device_checks import memory_beside, usable_kernels
from .leases import REGISTRY, LeasedModel, ModelRegistry
from .router import Router, RouterIdentity, check_window
from .tokenizer import Tokenizer

CACHE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class ArtifactChoice:
    """What ``load_router`` takes; ``base`` is None where the bundle itself says which base it needs."""

    artifact: str | Path
    base: str | Path | None


class FindsArtifacts(Protocol):
    """What knows artifacts by name beyond those that ship with the package; ``library.Library`` is one."""

    @property
    def config_dir(self) -> Path | None:
        """A folder with the user's own profiles."""

    @property
    def hash_memory(self) -> Path | None:
        """A file that remembers the hashes of large weight files."""

    def find(self, artifact: str, base: str | Path | None, profile: str) -> ArtifactChoice:
        """The bundle and the base that ``artifact`` means."""


def load_router(
    artifact: str | Path = "nano",
    base: str | Path | None = None,
    profile: str = AUTO,
    dtype: DTypeName | None = None,
    *,
    library: FindsArtifacts | None = None,
    execution: Literal["factored", "merged"] = "factored",
    kernels: Kernels = "fused",
    quantize: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    window: Window | None = None,
    backend: Backend | None = None,
    device: str | None = None,
    registry: ModelRegistry = REGISTRY,
    config_dir: Path | None = None,
    hash_memory: Path | None = None,
    hub: Callable[[], Hub] = Hub,
) -> Router:
    """Load a router. Routers of the same artifact on the same profile share one model, found in ``routing.leases``.

    Args:
        artifact: the name of an embedded artifact, or a bundle's folder; with a library, any name that it knows.
        base: a folder in Hugging Face layout, or ``OWNER/NAME[@REVISION]`` on the Hub; by default the bundle's own.
        profile: a runtime profile's name, or ``auto`` for the best one here.
        dtype: the number type of the model; by default the profile's.
        library: what has been fetched and built; its folders are also where profiles are found and hashes remembered.
        execution: apply the adapter to activations, or merge it into copies of the weights that it changes.
        kernels: the framework's fused kernels, or the same composed from plain operations: slower, and a check on them.
            On a device whose fused kernels fail the self-check (``routing.selfcheck``) composed ones run in any case.
        quantize: keep the base's matrices in 8 or 4 bits (MLX), or 8 (torch on the CPU); by default in ``dtype``.
        cache_bytes: how much may be kept of keys and values for transcripts that continue, by all routers of a
            model together as much as the most generous of them says; 0 remembers nothing.
        window: read long transcripts in part; by default as the bundle was trained, else through the profile's window,
            and without either a transcript with more tokens than the base has positions is an error.
        backend: what runs the model, instead of the one that the profile names; with ``profile="auto"`` on its own
            first device, in its first number type.
        device: one of the backend's devices of the profile's kind, as ``cuda:1``; by default the profile's own.
        registry: what keeps loaded models; by default this process's own.
        config_dir: a folder whose ``profiles/*.toml`` add to the built-in profiles.
        hash_memory: a file that remembers the hashes of large weight files between runs; what the self-check of a
            device found is remembered beside it.
        hub: how a base that is named ``OWNER/NAME`` is had, and with which token; by default with none. A ``Hub``, or
            what gives one when it is needed.

    Raises:
        UnknownProfile, ProfileInvalid, ProfileUnavailable: the profile cannot be used, or not with such a quantisation.
        UsageError: ``kernels`` or ``quantize`` is unknown, the shapes of this base cannot be quantised, or the window
            is wider than the base.
        ArtifactNotFound, BundleInvalid, TensorFileInvalid, BaseInvalid: a part is missing or broken.
        BaseMismatch: the bundle was made for another base.
        NotEnoughMemory: the device has too little memory, told before anything is loaded where it can be foreseen.
    """
    started = time.perf_counter()
    asked = Variant(kernels, quantize)
    if library:
        choice = library.find(str(artifact), base, profile)
        artifact, base = choice.artifact, choice.base
        config_dir, hash_memory = config_dir or library.config_dir, hash_memory or library.hash_memory
    else:
        _check_embedded(artifact)
    bundle, source = open_artifact(artifact, base, FileHashes(hash_memory), hub=hub)
    chosen, place, engine = _resolve(profile, backend, config_dir, device)
    tokenizer = _tokenizer_of(source)
    number_type = dtype or chosen.dtype
    variant = replace(asked, kernels=usable_kernels(engine, place, number_type, kernels, memory_beside(hash_memory)))
    window = window or bundle.window or (chosen.window.window if chosen.window else None)
    check_window(window, source.config.max_positions, bundle.name)
    model = _Model(bundle, source, place, number_type, execution == "merged", variant)
    lease = model.lease(registry, engine)
    identity = model.identity(chosen.name, window, load_ms=(time.perf_counter() - started) * 1000)
    leave = lease.value.reader.admit(cache_bytes)

    def release() -> None:
        leave()
        lease.release()

    return Router(identity, tokenizer, lease.value.reader, release, remember=cache_bytes > 0)


@dataclass(frozen=True)
class _Model:
    """A bundle on its base, with where and how the two run."""

    bundle: Bundle
    base: Base
    device: str
    dtype: DTypeName
    merged: bool
    variant: Variant

    def lease(self, registry: ModelRegistry, backend: Backend) -> Lease[LeasedModel]:
        """A lease on it, loaded where it is not."""
        return registry.lease(
            backend,
            self.base,
            self.bundle.adapter,
            self.bundle.head,
            device=self.device,
            dtype=self.dtype,
            merged=self.merged,
            variant=self.variant,
        )

    def identity(self, profile: str, window: Window | None, *, load_ms: float) -> RouterIdentity:
        """What its router says of itself with every decision."""
        bundle, base = self.bundle, self.base
        return RouterIdentity(
            artifact=ArtifactIdentity(bundle.name, bundle.adapter.ref, base.ref),
            head_ref=bundle.head.ref,
            labels=bundle.head.labels,
            text_format=bundle.text_format,
            part_format=bundle.part_format,
            max_positions=base.config.max_positions,
            profile=profile,
            device=self.device,
            dtype=self.dtype,
            variant=self.variant,
            load_ms=load_ms,
            window=window,
            guard=bundle.guard,
            receipt=self._receipt(),
        )

    def _receipt(self) -> PatchReceipt:
        return PatchReceipt.of(
            self.base,
            self.bundle.adapter,
            self.bundle.head,
            device=self.device,
            dtype=self.dtype,
            merged=self.merged,
            quantize=self.variant.quantize,
        )


def open_artifact(
    artifact: str | Path,
    base: str | Path | None = None,
    hashes: FileHashes | None = None,
    *,
    hub: Callable[[], Hub] = Hub,
) -> tuple[Bundle, Base]:
    """A bundle and the base that it runs on: the user's ``base``, else the bundle's own; held against each other.

    Raises:
        ArtifactNotFound, BundleInvalid, TensorFileInvalid, BaseInvalid: a part is missing or broken.
        BaseMismatch: the bundle was made for another base.
    """
    bundle = find_bundle(artifact, hashes)
    own = bundle.base_folder or bundle.base_id, bundle.base_revision
    place, revision = own if base is None else (base, None)
    source = open_base(place, revision, hashes, hub=hub)
    if bundle.base_ref not in (None, source.ref):
        source = open_base(place, revision, hub=hub)  # what is remembered of files is never held against a user
    check_fit(bundle, source)
    return bundle, source


def _check_embedded(artifact: str | Path) -> None:
    """Say of a published name what is missing, which is not the artifact."""
    if artifact in shipped_pins() and not existing_folder(artifact):
        raise ArtifactNotFound(
            f"{artifact} does not come with the package: give the library that it was fetched into, as in "
            f"load_router({artifact!r}, library=Library.at(folder))"
        )


def _tokenizer_of(source: Base) -> Tokenizer:
    tokenizer = Tokenizer(source.tokenizer)
    if tokenizer.vocab_size > source.config.vocab_size:
        raise BaseInvalid(
            f"{source.tokenizer} has ids up to {tokenizer.vocab_size - 1}, "
            f"and the base embeds {source.config.vocab_size}"
        )
    return tokenizer


def _resolve(
    profile: str, backend: Backend | None, config_dir: Path | None, place: str | None
) -> tuple[Profile, str, Backend]:
    """The profile, the device, and the backend: the one that was handed over, else the profile's."""
    if backend is None:
        chosen, device = ProfileRegistry(config_dir).resolve(profile, place)
        return chosen, device, load_backend(chosen.backend)
    if profile == AUTO:
        own = profile_of(backend.info())
        return own, place or own.device, backend
    machine = Machine(is_installed=lambda module: True, load_backend=lambda name: backend)
    return *ProfileRegistry(config_dir, machine).resolve(profile, place), backend
