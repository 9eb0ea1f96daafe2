"""What is free: the host's memory, a container's share of it, a device's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.backend import DeviceMemory
from trinity_mlx.profiles.memory import ControlGroup, available_bytes, available_on


def group(folder: Path, limit: str | None, usage: str = "0", details: str = "") -> ControlGroup:
    found = ControlGroup(folder / "limit", folder / "usage", folder / "details", ("inactive_file", "active_file"))
    for path, text in ((found.limit, limit), (found.usage, usage), (found.details, details)):
        if text is not None:
            path.write_text(text)
    return found


def test_available_memory_is_what_there_is() -> None:
    assert 10**8 < available_bytes() < 10**14


@pytest.mark.parametrize(
    ("limit", "usage", "details", "free"),
    [
        ("12345\n", "0\n", "", 12345),
        ("12345", "345", "", 12000),
        ("12345", "345", "anon 7\ninactive_file 100\nactive_file 45\n", 12145),
        ("12345", "20000", "", 0),
        ("12345", "", "no number\n\n", 12345),
    ],
)
def test_a_container_has_what_it_has_not_taken_yet(
    tmp_path: Path, limit: str, usage: str, details: str, free: int
) -> None:
    assert available_bytes([group(tmp_path, limit, usage, details)]) == free


@pytest.mark.parametrize("limit", ["max\n", None])
def test_a_container_without_a_limit_has_what_the_host_has(tmp_path: Path, limit: str | None) -> None:
    assert available_bytes([group(tmp_path, limit)]) > 10**8


class Device:
    def __init__(self, memory: DeviceMemory | None) -> None:
        self._memory = memory

    def device_memory(self, _: str) -> DeviceMemory | None:
        return self._memory

    def kept_bytes(self) -> int:
        return 0


def on(device: object) -> int:
    found: Any = device
    return available_on(found, "gpu")


def test_a_device_has_its_own_memory_or_a_part_of_the_hosts() -> None:
    assert on(Device(DeviceMemory(10**15, is_host=False))) == 10**15
    assert 10**8 < on(Device(DeviceMemory(10**15, is_host=True))) < 10**14
    assert on(Device(DeviceMemory(5, is_host=True))) == 5
    assert 10**8 < on(Device(None)) < 10**14
    assert 10**8 < on(object()) < 10**14
