"""The self-check of a device: kept by what works, and failed by a backend that is broken in each known way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.backend import Backend, BackendInfo, Past, Row, Segment
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.device_checks import MEMORY_FILE, CheckMemory, check_key, checked
from trinity_mlx.routing.leases import ModelRegistry
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.selfcheck import BROKEN, SHORT, SelfCheck, check_device

Break = Callable[[Sequence[Segment]], Sequence[bool]]


@dataclass(frozen=True)
class LeakyPast:
    """A past whose keys were moved by the last token that was read with it."""

    past: Past
    last: int

    @property
    def length(self) -> int:
        return self.past.length

    @property
    def nbytes(self) -> int:
        return self.past.nbytes


class BrokenModel:
    """A model whose rows are wrong for the segments that ``breaks`` names."""

    def __init__(self, model: Any, breaks: Break) -> None:
        self.nbytes, self.batch_tokens = model.nbytes, model.batch_tokens
        self._model = model
        self._breaks = breaks

    def logits(self, segments: Sequence[Segment]) -> tuple[list[Row], tuple[Past | None, ...]]:
        whole = [Segment(s.tokens, getattr(s.past, "past", None), s.reuse, s.keep) for s in segments]
        rows, pasts = self._model.logits(whole)
        kept = tuple(
            past and LeakyPast(past, segment.tokens[-1]) for past, segment in zip(pasts, segments, strict=True)
        )
        marks = self._breaks(segments)
        return [tuple(-v for v in row) if bad else row for row, bad in zip(rows, marks, strict=True)], kept


class BrokenBackend:
    """Torch, with fused kernels that are broken; its composed ones are right."""

    def __init__(self, breaks: Break) -> None:
        self._torch = load_backend("torch")
        self._breaks = breaks

    def info(self) -> BackendInfo:
        return self._torch.info()

    def load_base(self, base: Any, *, device: str, dtype: str, variant: Any) -> Any:
        loaded = self._torch.load_base(base, device=device, dtype=dtype, variant=variant)
        return loaded if variant.kernels == "composed" else BrokenBase(loaded, self._breaks)


@dataclass(frozen=True)
class BrokenBase:
    base: Any
    breaks: Break

    @property
    def nbytes(self) -> int:
        held: int = self.base.nbytes
        return held

    def attach(self, *arguments: Any, **options: Any) -> Any:
        return BrokenModel(self.base.attach(*arguments, **options), self.breaks)


def raises(segments: Sequence[Segment]) -> Sequence[bool]:
    raise RuntimeError("no kernel for this shape")


FUSED, FUTURE, BATCH, CONTINUED = (
    "fused kernels compute what composed ones do",
    "a later token never moves an earlier one",
    "a batch gives what each sequence gives alone",
    "what continues gives what it gives read afresh",
)
WAYS: dict[str, tuple[Break, set[str]]] = {
    "wrong from 64 tokens on": (lambda s: [len(each.tokens) >= 64 and not each.past for each in s], {FUSED, CONTINUED}),
    "a batch mixes its sequences": (lambda s: [len(s) > 1] * len(s), {BATCH}),
    "one query over a past": (lambda s: [each.past is not None and len(each.fresh) == 1 for each in s], {CONTINUED}),
    "several queries over a past": (
        lambda s: [each.past is not None and len(each.fresh) > 1 for each in s],
        {CONTINUED},
    ),
    "sees the future": (lambda s: [isinstance(each.past, LeakyPast) and each.past.last == 5 for each in s], {FUTURE}),
    "raises": (raises, {FUSED, FUTURE, BATCH, CONTINUED}),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_be_broken_is_found_by_its_law(way: str) -> None:
    breaks, laws = WAYS[way]
    broken: Any = BrokenBackend(breaks)
    result = check_device(broken, "cpu", "float32", SHORT)
    assert laws <= set(result.failures)
    assert result.kernels == "composed"


def test_no_number_is_a_failure() -> None:
    broken: Any = BrokenBackend(lambda segments: [True] * len(segments))
    broken.load_base = lambda *_, **__: NaNBase()
    assert set(check_device(broken, "cpu", "float32", SHORT).differences.values()) == {BROKEN}


class NaNBase:
    def attach(self, *_: Any) -> Any:
        return self

    def logits(self, segments: Sequence[Segment]) -> tuple[list[Row], tuple[None, ...]]:
        return [(float("nan"),) * 10 for _ in segments], (None,) * len(segments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_works_keeps_every_law(backend: Backend, dtype: str) -> None:
    result = check_device(backend, "cpu", dtype, SHORT)
    assert not result.failures
    assert result.kernels == "fused"


# --- memory -----------------------------------------------------------------------------------------------------------


class CountedBackend(BrokenBackend):
    """Torch that counts how often it was asked to load, and says which version it is."""

    def __init__(self, version: str = "1") -> None:
        super().__init__(lambda segments: [False] * len(segments))
        self.loads, self.version = 0, version

    def info(self) -> BackendInfo:
        return BackendInfo("torch", {"torch": self.version}, ("cpu",), ("float32",), {"cpu": "a processor"})

    def load_base(self, *arguments: Any, **options: Any) -> Any:
        self.loads += 1
        if self.version == "broken":
            return NaNBase()
        return super().load_base(*arguments, **options)


def test_a_device_is_checked_once_and_again_when_asked(tmp_path: Path) -> None:
    memory, backend = CheckMemory(tmp_path / "deep" / "checks.json"), CountedBackend()
    found = [checked(memory, backend, "cpu", "float32", longest=SHORT)[1] for _ in range(2)]  # type: ignore[arg-type]
    assert found == [True, False]
    again = CheckMemory(tmp_path / "deep" / "checks.json")
    assert not checked(again, backend, "cpu", "float32", longest=SHORT)[1]  # type: ignore[arg-type]
    assert backend.loads == 2
    assert checked(again, backend, "cpu", "float32", longest=SHORT, again=True)[1]  # type: ignore[arg-type]
    assert backend.loads == 4


def test_another_version_is_another_question(tmp_path: Path) -> None:
    one, other = (check_key(CountedBackend(version), "cpu", "float32") for version in "12")  # type: ignore[arg-type]
    assert one != other


def test_failures_are_remembered_too(tmp_path: Path) -> None:
    broken: Any = CountedBackend("broken")
    result, _ = checked(CheckMemory(tmp_path / "checks.json"), broken, "cpu", "float32", longest=SHORT)
    known, is_new = checked(CheckMemory(tmp_path / "checks.json"), broken, "cpu", "float32", longest=SHORT)
    assert known == result
    assert known.kernels == "composed"
    assert not is_new


@pytest.mark.parametrize("content", ["", "[]", "null", '{"a": 1}', '{"a": {"differences": {}}}', "\x00"])
def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "checks.json"
    path.write_text(content)
    memory = CheckMemory(path)
    assert not list(memory.items())
    memory.keep("key", SelfCheck({"law": 0.0}, (), 0.1))
    assert dict(CheckMemory(path).items()) == {"key": SelfCheck({"law": 0.0}, (), 0.1)}


def test_a_memory_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = CheckMemory(tmp_path / "file" / "checks.json")
    memory.keep("key", SelfCheck({}, (), 0.1))
    assert memory.find("key")


# --- what a router does about it --------------------------------------------------------------------------------------


class BrokenDevice(BrokenBackend):
    """A GPU whose fused kernels let positions see the future."""

    def info(self) -> BackendInfo:
        return BackendInfo("odd", {"odd": "1"}, ("gpu",), ("float32",), {"gpu": "a device"})

    def load_base(self, base: Any, *, device: str, dtype: str, variant: Any) -> Any:
        return super().load_base(base, device="cpu", dtype=dtype, variant=variant)


def test_a_router_on_a_broken_device_runs_composed_kernels_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        broken: Any = BrokenDevice(WAYS["sees the future"][0])
        with load_router("nano", backend=broken, registry=ModelRegistry(), hash_memory=tmp_path / "hashes") as router:
            assert router.identity.variant.kernels == "composed"
            assert router.route("What is 17 + 25?").label
    said = [record.message for record in caplog.records if "composed kernels instead" in record.message]
    assert [FUTURE in message for message in said] == [True]
    assert (tmp_path / MEMORY_FILE).is_file()


def test_a_router_on_a_sound_device_keeps_its_fused_kernels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound: Any = BrokenDevice(lambda segments: [False] * len(segments))
    with load_router("nano", backend=sound, registry=ModelRegistry(), hash_memory=tmp_path / "hashes") as router:
        assert router.identity.variant.kernels == "fused"
    assert not [record for record in caplog.records if "composed" in record.message]
