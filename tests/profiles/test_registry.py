"""Profiles: the built-in ones, the user's over them, what is wrong with a file, and what can run here."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trinity_mlx.contracts.backend import BackendInfo
from trinity_mlx.contracts.errors import ProfileInvalid, ProfileUnavailable, UnknownProfile
from trinity_mlx.contracts.routing import Window
from trinity_mlx.profiles.backends import offered_folders
from trinity_mlx.profiles.registry import Machine, Profile, ProfileRegistry, availability, profile_of

BUILT_IN = ["cpu", "cuda", "mlx", "mps"]
PLAIN = """
summary = "mine"
backend = "torch"
device = "cpu"
dtype = "float32"
"""


def write_profile(config: Path, name: str, text: str | bytes) -> Path:
    path = config / "profiles" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def machine_with(system: str = "Linux", processor: str = "x86_64", **devices: tuple[str, ...]) -> Machine:
    """A machine on which each backend sees the given devices and every module is installed."""

    def load(name: str) -> Any:
        info = BackendInfo(name, {name: "9.9"}, devices[name], ("float32", "bfloat16"))
        return SimpleNamespace(info=lambda: info)

    return Machine(system, processor, is_installed=lambda module: True, load_backend=load)


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cuda:1", ("cuda", "cuda:1")),
        ("auto", "cpu", ("cpu", "cpu")),
        ("auto", "gpu", ("mlx", "gpu")),
        ("cuda", "cuda:0", ("cuda", "cuda:0")),
        ("mlx", "cpu", ("mlx", "cpu")),
        ("auto", None, ("cuda", "cuda")),
    ],
)
def test_a_device_of_the_profiles_kind_takes_its_place(name: str, device: str | None, expected: object) -> None:
    machine = machine_with(torch=("cuda", "cuda:0", "cuda:1", "cpu"), mlx=("gpu", "cpu"))
    profile, chosen = ProfileRegistry(machine=machine).resolve(name, device)
    assert (profile.name, chosen) == expected


@pytest.mark.parametrize(
    ("name", "device", "fragment"),
    [
        ("cuda", "cpu", "no profile for the device 'cpu' among cuda"),
        ("cuda", "cuda:7", "sees no cuda:7 device"),
        ("auto", "tpu", "sees no tpu device"),
        ("cpu", "", "no profile for the device ''"),
    ],
)
def test_a_device_that_a_profile_is_not_for_is_refused(name: str, device: str, fragment: str) -> None:
    machine = machine_with(torch=("cuda", "cuda:0", "cpu"), mlx=("cpu",))
    with pytest.raises(ProfileUnavailable, match=fragment):
        ProfileRegistry(machine=machine).resolve(name, device)


def test_the_four_built_in_profiles_load_and_bear_their_files_names() -> None:
    registry = ProfileRegistry()
    assert registry.names == BUILT_IN
    assert [registry.get(name).name for name in BUILT_IN] == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_profile_says_what_it_needs_and_how_to_get_it(name: str) -> None:
    profile = ProfileRegistry().get(name)
    assert profile.summary
    assert profile.backend in ("mlx", "torch")
    assert profile.backend in profile.requires.modules
    assert profile.requires.install.startswith("pip install ")
    assert profile.origin.name == f"{name}.toml"
    assert profile.origin.is_file()


def test_every_floor_says_where_it_comes_from() -> None:
    registry = ProfileRegistry()
    floors = {(name, artifact): each for name in BUILT_IN for artifact, each in registry.get(name).floors.items()}
    assert floors
    assert all(each.source in ("measured here", "published", "derived") for each in floors.values())
    published = [each for each in floors.values() if each.source == "published"]
    for (name, _), each in floors.items():
        if each.source == "derived":
            assert each.agent == min(one.agent for one in published), name
            assert each.role == min(one.role for one in published), name
            assert each.note


def test_every_built_in_profile_knows_floors_of_the_published_router() -> None:
    assert all("sakana" in ProfileRegistry().get(name).floors for name in BUILT_IN)


@pytest.mark.parametrize(("name", "agent", "role"), [("cuda", 0.24, 1.06), ("mlx", 0.33, 0.82)])
def test_the_published_floors_are_the_published_figures(name: str, agent: float, role: float) -> None:
    floors = ProfileRegistry().get(name).floors["sakana"]
    assert (floors.agent, floors.role, floors.source) == (agent, role, "published")


def test_a_users_file_adds_a_profile(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", PLAIN)
    registry = ProfileRegistry(tmp_path)
    assert registry.names == sorted([*BUILT_IN, "mine"])
    profile = registry.get("mine")
    assert (profile.summary, profile.backend, profile.device, profile.dtype) == ("mine", "torch", "cpu", "float32")
    assert profile.origin == path


def test_a_users_file_takes_the_place_of_a_built_in_profile(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mlx", PLAIN)
    registry = ProfileRegistry(tmp_path)
    assert registry.names == BUILT_IN
    assert (registry.get("mlx").origin, registry.get("mlx").backend) == (path, "torch")
    assert registry.get("cpu").origin == ProfileRegistry().get("cpu").origin


def test_a_config_folder_without_profiles_adds_none(tmp_path: Path) -> None:
    assert ProfileRegistry(tmp_path / "missing").names == BUILT_IN
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "notes.txt").write_text("not a profile")
    assert ProfileRegistry(tmp_path).names == BUILT_IN


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "summary is missing"),
        (PLAIN.replace("backend", "engine"), "backend is missing"),
        (PLAIN + "colour = 'red'", "colour: there is no such setting"),
        (PLAIN.replace('"float32"', '"float64"'), "dtype: "),
        (PLAIN.replace('"cpu"', "3"), "device: "),
        (PLAIN + "[requires]\nmodules = 'torch'", "requires.modules: "),
        (PLAIN + "[requires]\nextra = 1", "requires.extra: "),
        (PLAIN + "[floors.nano]\nagent = 1.0\nrole = 1.0", "floors.nano.source is missing"),
        (PLAIN + "[floors.nano]\nagent = 1.0\nrole = 1.0\nsource = 'guessed'", "floors.nano.source: "),
        (PLAIN + "[floors.nano]\nagent = -0.1\nrole = 1.0\nsource = 'published'", "floors.nano.agent: "),
        (PLAIN + "[floors.nano]\nagent = nan\nrole = 1.0\nsource = 'published'", "floors.nano.agent: "),
        (PLAIN + "[floors]\nnano = 1", "floors.nano: "),
        ("summary = ", "TOML"),
        (PLAIN + "summary = 'twice'", "TOML"),
        (b"\xff\xfe", "TOML"),
        pytest.param("a = " + "[" * 100_000, "TOML", id="deeply nested"),
    ],
)
def test_a_file_that_describes_no_profile_is_refused_by_file_and_key(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    path = write_profile(tmp_path, "broken", text)
    with pytest.raises(ProfileInvalid) as caught:
        ProfileRegistry(tmp_path).get("broken")
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ['name = "other"', 'origin = "/elsewhere"'])
def test_name_and_origin_come_from_the_file_and_cannot_be_claimed_in_it(tmp_path: Path, line: str) -> None:
    write_profile(tmp_path, "mine", PLAIN + line)
    with pytest.raises(ProfileInvalid, match=line.split()[0]):
        ProfileRegistry(tmp_path).get("mine")


def test_a_profile_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "profiles" / "folder.toml").mkdir(parents=True)
    with pytest.raises(ProfileInvalid, match=r"folder\.toml"):
        ProfileRegistry(tmp_path).get("folder")


def test_a_broken_file_stands_in_the_way_of_its_own_profile_and_of_auto_alone(tmp_path: Path) -> None:
    write_profile(tmp_path, "mine", PLAIN)
    path = write_profile(tmp_path, "cuda", "")
    registry = ProfileRegistry(tmp_path, machine_with(mlx=("gpu",), torch=("cuda", "cpu")))
    assert registry.names == ["cpu", "mine", "mlx", "mps"]
    assert list(registry.broken) == ["cuda"]
    assert registry.resolve("mine")[1] == "cpu"
    for name in ("cuda", "auto"):  # which might have been the one in that file
        with pytest.raises(ProfileInvalid, match=str(path)):
            registry.resolve(name)


def test_a_file_that_stands_over_a_broken_one_mends_it(tmp_path: Path) -> None:
    write_profile(tmp_path / "package", "mine", "")
    write_profile(tmp_path, "mine", PLAIN)
    registry = ProfileRegistry(tmp_path, Machine(offered_profiles=lambda: [tmp_path / "package" / "profiles"]))
    assert (registry.get("mine").summary, registry.broken) == ("mine", {})


@pytest.mark.parametrize("ask", ["get", "resolve"])
def test_an_unknown_name_lists_the_valid_ones(ask: str, tmp_path: Path) -> None:
    write_profile(tmp_path, "mine", PLAIN)
    with pytest.raises(UnknownProfile, match="no profile 'cpuu': choose auto or one of cpu, cuda, mine, mlx, mps"):
        getattr(ProfileRegistry(tmp_path), ask)("cpuu")


def profile_with(tmp_path: Path, text: str) -> Profile:
    write_profile(tmp_path, "mine", text)
    return ProfileRegistry(tmp_path).get("mine")


def test_a_missing_module_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    needs = "[requires]\nmodules = ['json', 'no_such_module', 'nor_this_one']\ninstall = 'pip install it'"
    found = availability(profile_with(tmp_path, PLAIN + needs))
    assert not found.ok
    assert found.device is None
    assert found.reason == "no_such_module and nor_this_one not installed"
    assert found.remedy == "run: pip install it"


def test_a_missing_submodule_is_named_like_a_missing_module(tmp_path: Path) -> None:
    needs = "[requires]\nmodules = ['no_such_module.core']\ninstall = 'pip install it'"
    found = availability(profile_with(tmp_path, PLAIN + needs))
    assert (found.ok, found.reason) == (False, "no_such_module.core not installed")


def test_a_backend_that_nobody_offers_is_named_with_those_that_are(tmp_path: Path) -> None:
    found = availability(profile_with(tmp_path, PLAIN.replace("torch", "abacus")))
    assert not found.ok
    assert "no backend 'abacus'" in found.reason
    assert "mlx, torch" in found.reason


def test_a_device_that_the_backend_does_not_see_is_named_with_those_it_does(tmp_path: Path) -> None:
    found = availability(profile_with(tmp_path, PLAIN.replace('"cpu"', '"abacus"')))
    assert not found.ok
    assert "torch" in found.reason
    assert "no abacus device (it sees " in found.reason
    assert "another profile" in found.remedy


def test_a_profile_on_any_device_takes_the_backends_first() -> None:
    machine = machine_with(mlx=("gpu", "cpu"), torch=("cpu",))
    assert availability(ProfileRegistry().get("mlx"), machine).device == "gpu"
    assert availability(ProfileRegistry().get("cpu"), machine).device == "cpu"


def test_an_unavailable_profile_says_why_and_what_to_do(tmp_path: Path) -> None:
    write_profile(tmp_path, "mine", PLAIN + "[requires]\nmodules = ['no_such_module']\ninstall = 'pip install it'")
    with pytest.raises(ProfileUnavailable) as caught:
        ProfileRegistry(tmp_path).resolve("mine")
    assert str(caught.value) == "profile 'mine' cannot run here: no_such_module not installed; run: pip install it"


@pytest.mark.parametrize(
    ("system", "machine", "order"),
    [
        ("Darwin", "arm64", ["mlx", "cuda", "mps", "cpu"]),
        ("Darwin", "x86_64", ["cuda", "mps", "cpu", "mlx"]),
        ("Linux", "x86_64", ["cuda", "mps", "cpu", "mlx"]),
        ("Linux", "arm64", ["cuda", "mps", "cpu", "mlx"]),
        ("Windows", "AMD64", ["cuda", "mps", "cpu", "mlx"]),
    ],
)
def test_auto_prefers_mlx_on_apple_silicon_and_torch_elsewhere(system: str, machine: str, order: list[str]) -> None:
    assert ProfileRegistry(machine=Machine(system, machine)).auto_order == order
    assert sorted(order) == ProfileRegistry().names


@pytest.mark.parametrize(
    ("system", "machine", "torch_sees", "chosen"),
    [
        ("Darwin", "arm64", ("mps", "cpu"), ("mlx", "gpu")),
        ("Darwin", "x86_64", ("mps", "cpu"), ("mps", "mps")),
        ("Linux", "x86_64", ("cuda", "cpu"), ("cuda", "cuda")),
        ("Linux", "x86_64", ("cpu",), ("cpu", "cpu")),
        ("Linux", "x86_64", (), ("mlx", "gpu")),
    ],
)
def test_auto_takes_the_first_profile_that_can_run(
    system: str, machine: str, torch_sees: tuple[str, ...], chosen: tuple[str, str]
) -> None:
    here = machine_with(system, machine, mlx=("gpu",), torch=torch_sees)
    profile, device = ProfileRegistry(machine=here).resolve("auto")
    assert (profile.name, device) == chosen


def test_auto_tells_every_refusal_when_nothing_can_run() -> None:
    bare = Machine(is_installed=lambda module: False)
    with pytest.raises(ProfileUnavailable) as caught:
        ProfileRegistry(machine=bare).resolve("auto")
    lines = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in lines] == ProfileRegistry(machine=bare).auto_order
    assert all("not installed; run: pip install" in line for line in lines)


@pytest.mark.skipif(platform.system() != "Linux", reason="a Mac resolves to mlx or mps")
def test_auto_resolves_here_to_a_torch_profile() -> None:
    import torch

    expected = "cuda" if torch.cuda.is_available() else "cpu"
    profile, device = ProfileRegistry().resolve("auto")
    assert (profile.name, device) == (expected, expected)


def test_a_users_file_changes_what_auto_runs(tmp_path: Path) -> None:
    machine = machine_with(mlx=("gpu",), torch=("cuda", "cpu"))
    path = write_profile(tmp_path, "cuda", PLAIN)
    profile, device = ProfileRegistry(tmp_path, machine).resolve("auto")
    assert (profile.name, profile.origin, device) == ("cuda", path, "cpu")


WINDOW = "[window]\nhead = 1000\ntail = 3000\n"


def test_a_profile_may_bring_a_reading_window(tmp_path: Path) -> None:
    window = profile_with(tmp_path, PLAIN + WINDOW).window
    assert window is not None
    assert window.window == Window(1000, 3000, 256)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (WINDOW + "step = 4000", "step at least 1"),
        (WINDOW.replace("1000", "-1"), "head must be 0 or more"),
        (WINDOW.replace("tail = 3000", ""), "tail"),
        ("[floors.x]\nagent = inf\nrole = 0.5\nsource = 'published'", "agent"),
        ("[floors.x]\nagent = 0.5\nrole = nan\nsource = 'published'", "role"),
    ],
)
def test_windows_and_floors_that_are_none_are_refused(tmp_path: Path, change: str, told: str) -> None:
    with pytest.raises(ProfileInvalid, match=told):
        profile_with(tmp_path, PLAIN + change)


def test_a_backend_by_itself_gives_a_profile_of_its_first_device_and_number_type() -> None:
    profile = profile_of(BackendInfo("abacus", {}, ("bead", "cpu"), ("float16", "float32")))
    assert (profile.name, profile.device, profile.dtype) == ("abacus", "bead", "float16")


def test_another_package_may_offer_profiles_with_a_place_in_the_order(tmp_path: Path) -> None:
    offered = tmp_path / "package"
    offered.mkdir()
    (offered / "abacus.toml").write_text(PLAIN.replace('"torch"', '"abacus"') + "auto = 1\n")
    machine = replace(machine_with(abacus=("cpu",), torch=("cpu",)), offered_profiles=lambda: [offered])
    registry = ProfileRegistry(tmp_path / "config", machine)
    assert registry.auto_order == ["abacus", "cuda", "mps", "cpu", "mlx"]
    assert registry.resolve("auto")[0].backend == "abacus"
    write_profile(tmp_path / "config", "abacus", PLAIN)
    assert ProfileRegistry(tmp_path / "config", machine).resolve("auto")[0].backend == "torch"


def test_the_folder_of_an_offered_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, information = tmp_path / "their_profiles", tmp_path / "their_profiles-1.0.dist-info"
    for folder in (package, information):
        folder.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-profiles\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[trinity_mlx.profiles]\ntheirs = their_profiles\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert offered_folders.__wrapped__() == [package]
