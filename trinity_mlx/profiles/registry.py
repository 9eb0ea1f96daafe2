"""The registry of runtime profiles: named choices of backend, device, number type and margin floors.

A profile is a TOML file whose name is the profile's. The built-in ones ship with the package; a user's own file in
``<config folder>/profiles`` adds a profile or takes the place of a built-in one.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..contracts import routing
from ..contracts.backend import Backend, BackendInfo
from ..contracts.errors import ProfileInvalid, ProfileUnavailable, UnknownProfile, UsageError
from ..files.models import Faults, Strict, as_model, parse_toml, read_content
from ..files.shipped import data_path
from .backends import load_backend, offered_folders

AUTO = "auto"
_FAULTS = Faults(ProfileInvalid)
DTypeName = Literal["float32", "bfloat16", "float16"]
_Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Floors(Strict):
    """The least margins that a decision should have with one artifact, in logits, and where they come from."""

    agent: _Margin
    role: _Margin
    source: Literal["measured here", "published", "derived"]
    note: str = ""


class Requires(Strict):
    """Python modules that must be importable, and the command that installs them."""

    modules: Annotated[tuple[str, ...], Field(strict=False)] = ()
    install: str = ""


class ReadingWindow(Strict):
    """How long transcripts are read in part; see ``contracts.routing.Window``."""

    head: int
    tail: int
    step: int = 256

    @model_validator(mode="after")
    def _is_a_window(self) -> ReadingWindow:
        try:
            self.window  # noqa: B018
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def window(self) -> routing.Window:
        """As routers take it."""
        return routing.Window(self.head, self.tail, self.step)


class Profile(Strict):
    """One runtime profile. ``device`` is a backend's own name for it, or ``auto`` for its first.

    ``auto`` tries those that have a place in its order, lowest first; one that takes another's name takes its place.
    """

    name: str
    summary: str
    backend: str
    device: str
    dtype: DTypeName
    requires: Requires = Requires()
    floors: Mapping[str, Floors] = Field(default_factory=dict)
    window: ReadingWindow | None = None
    auto: int | None = None
    auto_on_apple_silicon: int | None = None
    origin: Path

    def place(self, machine: Machine) -> int | None:
        """Its place in the order of ``auto`` on ``machine``."""
        apples = self.auto_on_apple_silicon if machine.is_apple_silicon else None
        return self.auto if apples is None else apples

    def runs_on(self, device: str) -> bool:
        """Whether ``device`` is of the kind that it is for: ``cuda:1`` is of the kind ``cuda``."""
        return self.device == "auto" or self.device.partition(":")[0] == device.partition(":")[0]


@dataclass(frozen=True)
class Availability:
    """Whether a profile can run here: the device it would use, or why not and what to do about it."""

    device: str | None
    reason: str = ""
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """True if the profile can run."""
        return self.device is not None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@dataclass(frozen=True)
class Machine:
    """What decides which profiles can run: the platform, the modules that are there, and the backends."""

    system: str = platform.system()
    processor: str = platform.machine()
    is_installed: Callable[[str], bool] = _is_installed
    load_backend: Callable[[str], Backend] = load_backend
    offered_profiles: Callable[[], list[Path]] = offered_folders

    @property
    def is_apple_silicon(self) -> bool:
        """Whether this is a Mac with Apple's own processor."""
        return (self.system, self.processor) == ("Darwin", "arm64")


HERE = Machine()
"""The machine that this process runs on."""


class ProfileRegistry:
    """All profiles by name: the built-in ones, over them what other packages offer, over all the user's own.

    Attributes:
        broken: by name, what is wrong with a file that does not describe a profile. It stands in the way of that
            profile and of ``auto``, which might have meant it, and of no other.
    """

    def __init__(self, config_dir: Path | None = None, machine: Machine = HERE) -> None:
        self._machine = machine
        own = [config_dir / "profiles"] if config_dir else []
        self._profiles: dict[str, Profile] = {}
        self.broken: dict[str, str] = {}
        for folder in (data_path("profiles"), *machine.offered_profiles(), *own):
            for path in sorted(folder.glob("[!.]*.toml")):
                self._add(path)

    def _add(self, path: Path) -> None:
        name = path.stem
        self.broken.pop(name, None)
        try:
            self._profiles[name] = _in_place_of(self._profiles.get(name), _read_profile(path))
        except ProfileInvalid as error:
            self.broken[name] = str(error)

    @property
    def names(self) -> list[str]:
        """Names of all profiles that are whole, sorted."""
        return sorted(self._profiles.keys() - self.broken.keys())

    @property
    def auto_order(self) -> list[str]:
        """The profiles that ``auto`` tries on this machine, in order.

        Raises:
            ProfileInvalid: one is broken.
        """
        if self.broken:
            raise ProfileInvalid(next(iter(self.broken.values())))
        places = {name: profile.place(self._machine) for name, profile in self._profiles.items()}
        return sorted(
            (name for name, place in places.items() if place is not None), key=lambda name: (places[name], name)
        )

    def get(self, name: str) -> Profile:
        """The profile ``name``.

        Raises:
            UnknownProfile: there is none.
            ProfileInvalid: its file is broken.
        """
        if name in self.broken:
            raise ProfileInvalid(self.broken[name])
        if name not in self._profiles:
            raise UnknownProfile(f"no profile {name!r}: choose {AUTO} or one of {', '.join(self.names)}")
        return self._profiles[name]

    def resolve(self, name: str, device: str | None = None) -> tuple[Profile, str]:
        """The profile ``name``, or the best one here for ``auto``, with the device that it will use.

        ``device`` takes the place of the profile's own, which must be of the same kind; ``auto`` looks for a profile
        that is for such a one.

        Raises:
            UnknownProfile: there is no such profile.
            ProfileInvalid: its file is broken, or for ``auto`` any file is.
            ProfileUnavailable: it cannot run here, or not on ``device``; or none can.
        """
        candidates = self._for_device(self.auto_order if name == AUTO else [name], device)
        refusals = []
        for candidate in candidates:
            profile = self.get(candidate)
            profile = profile if device is None else profile.model_copy(update={"device": device})
            here = availability(profile, self._machine)
            if here.device is not None:
                return profile, here.device
            refusals.append(f"profile {candidate!r} cannot run here: {here.reason}; {here.remedy}")
        raise ProfileUnavailable("\n".join(refusals))

    def _for_device(self, names: list[str], device: str | None) -> list[str]:
        fitting = [name for name in names if device is None or self.get(name).runs_on(device)]
        if not fitting:
            raise ProfileUnavailable(f"no profile for the device {device!r} among {', '.join(names)}")
        return fitting


def profile_of(info: BackendInfo) -> Profile:
    """A profile for a backend that was handed over: its first device, its first number type."""
    return Profile(
        name=info.backend_id,
        summary=f"the backend {info.backend_id}, as it was handed over",
        backend=info.backend_id,
        device=info.devices[0],
        dtype=info.dtypes[0],  # type: ignore[arg-type]
        origin=Path(),
    )


def availability(profile: Profile, machine: Machine = HERE) -> Availability:
    """Whether ``profile`` can run here; imports its backend when the modules that it needs are there."""
    missing = [module for module in profile.requires.modules if not machine.is_installed(module)]
    if missing:
        return Availability(None, f"{' and '.join(missing)} not installed", _installation(profile))
    try:
        info = machine.load_backend(profile.backend).info()
    except ProfileUnavailable as error:
        return Availability(None, str(error), _installation(profile))
    device = info.devices[0] if profile.device == "auto" else profile.device
    if device in info.devices:
        return Availability(device)
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    seen = ", ".join(info.devices)
    return Availability(
        None,
        f"{versions} sees no {device} device (it sees {seen})",
        f"use a machine and a {profile.backend} build with {device}, or another profile",
    )


def _installation(profile: Profile) -> str:
    return f"run: {profile.requires.install}" if profile.requires.install else "install it"


def _in_place_of(former: Profile | None, profile: Profile) -> Profile:
    """``profile`` where ``former`` was in the order of ``auto``, unless it names a place of its own."""
    if former is None or profile.auto is not None:
        return profile
    places = {"auto": former.auto, "auto_on_apple_silicon": former.auto_on_apple_silicon}
    return profile.model_copy(update=places)


def _read_profile(path: Path) -> Profile:
    table = parse_toml(read_content(path, _FAULTS), str(path), _FAULTS)
    if {"name", "origin"} & table.keys():
        raise ProfileInvalid(f"{path}: name and origin are the file's own, and no keys")
    return as_model({**table, "name": path.stem, "origin": path}, Profile, str(path), _FAULTS)
