"""Kills a piece of work at each of its system calls that write, rename, remove or flush; run as a program of its own.

    python dying.py SCENARIO FOLDER LIMIT < what the scenario needs, as JSON

Every try is a fork of this one process, which has no thread and imports no tensor framework. A kill is an exit without
any cleaning up, before a call or in the middle of a write. Then a fresh fork says what is there, and another does the
work anew. Prints one JSON object: how many points there are, how many were tried, what was there, and every fault.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.contracts.backend import BackendInfo
from trinity_mlx.contracts.errors import ResumeRefused, TrinityError
from trinity_mlx.downloads.fetch import fetch
from trinity_mlx.downloads.homes import Homes
from trinity_mlx.downloads.pins import read_pin
from trinity_mlx.downloads.store import Store
from trinity_mlx.evaluation.lane import Lane, LaneArtifact, read_lane, write_lane
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.request import ExportRequest, Write
from trinity_mlx.files.hashing import FileHashes
from trinity_mlx.importing.importer import import_bundle
from trinity_mlx.importing.request import ImportRequest

KILLED = 137
REAL_OPEN, REAL_FSYNC = io.open, os.fsync
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
LOG = "export.log.jsonl"


class Death:
    """Counts points, notes what each is, and ends the process at one of them."""

    def __init__(self, root: Path, at: int | None = None, torn: bool = False) -> None:
        self.kinds: list[str] = []
        self._root, self._at, self._torn = os.fspath(root), at, torn

    def point(self, kind: str, half: Callable[[], object] = lambda: None) -> None:
        """Here is one; ``half`` does half of what comes."""
        self.kinds.append(kind)
        if len(self.kinds) - 1 == self._at:
            if self._torn:
                half()
            os._exit(KILLED)

    def install(self) -> None:
        """Stand before every call from now on; there is no way back."""
        sys.addaudithook(self._audit)
        io.open = builtins.open = self._open  # type: ignore[assignment]
        os.fsync = self._fsync

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "ctypes.dlsym" and arguments[1] in ("renameat2", "renamex_np"):
            self.point("exchange")
        elif event in EVENTS and self._is_ours(arguments[0]):
            self.point(event)
        elif event == "open" and self._is_ours(arguments[0]) and arguments[2] & WRITING:
            self.point("open")

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self._root)

    def _fsync(self, descriptor: int) -> None:
        self.point("fsync")
        REAL_FSYNC(descriptor)

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if not self._is_ours(file) or not set(mode) & set("wax+"):
            return REAL_OPEN(file, mode, buffering, *rest, **named)
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **named)


class _Raw(io.FileIO):
    """A file whose every write is a point."""

    def __init__(self, death: Death, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self._death = death

    def write(self, content: Any) -> int:
        written = bytes(content)
        self._death.point("write", lambda: super(_Raw, self).write(written[: len(written) // 2]))
        return super().write(written)


class Scenario:
    """A piece of work in ``work``: what is there before it, the work, what is there now, and doing it anew."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def prepare(self, work: Path) -> None:
        """What lies there beforehand."""

    def act(self, work: Path) -> None:
        """The work that is killed."""
        raise NotImplementedError

    def state(self, work: Path) -> str:
        """``old`` or ``new``; anything else is a fault."""
        raise NotImplementedError

    def mend(self, work: Path) -> None:
        """What a user does next."""
        self.act(work)


class Host:
    """A backend that computes nothing of its own: decompositions run in numpy."""

    def info(self) -> BackendInfo:
        """Who it is."""
        return BackendInfo("host", {}, ("cpu",), ("float32",))


class Export(Scenario):
    """An export where nothing was."""

    def request(self, work: Path, **changes: Any) -> ExportRequest:
        """Of three small tensors."""
        given = self.given
        named: dict[str, Any] = {"name": "router", "only": tuple(given["tensors"]), "agents": tuple(given["agents"])}
        base, vector = open_base(given["base"]), Path(given["vector"])
        return ExportRequest(base, "test/tiny", vector, work / "out", Host(), **named | changes)  # type: ignore[arg-type]

    def act(self, work: Path) -> None:
        """Resumed where there is something to resume."""
        export(self.request(work, resume=True))

    def state(self, work: Path) -> str:
        """Nothing, or the bundle."""
        if not (work / "out" / "manifest.json").exists():
            return "old"
        return "new" if open_bundle(work / "out").adapter.entries[0].execution != "replace" else "old"


class ExportForce(Export):
    """An export in the place of an older bundle."""

    def prepare(self, work: Path) -> None:
        """Another bundle."""
        export(self.request(work, write=Write.MERGED))

    def act(self, work: Path) -> None:
        """With force."""
        export(self.request(work, force=True))

    def state(self, work: Path) -> str:
        """One of the two."""
        return "new" if open_bundle(work / "out").adapter.entries[0].execution != "replace" else "old"

    def mend(self, work: Path) -> None:
        """It is resumed, or begun anew where it had not even begun."""
        try:
            export(self.request(work, resume=True))
        except ResumeRefused:
            self.act(work)


class Import(Scenario):
    """An import in the place of an older bundle."""

    def prepare(self, work: Path) -> None:
        """The bundle that was exported."""
        shutil.copytree(self.given["bundle"], work / "out")

    def act(self, work: Path) -> None:
        """With force."""
        import_bundle(ImportRequest(Path(self.given["published"]), self.given["base"], work / "out", force=True))

    def state(self, work: Path) -> str:
        """One of the two, once the next one has begun."""
        return "new" if open_bundle(work / "out").adapter.entries[0].execution == "replace" else "old"


class Fetch(Scenario):
    """A fetch with its record."""

    def act(self, work: Path) -> None:
        """From a server on this machine."""
        pin = read_pin(Path(self.given["pin"]))
        with Homes() as homes:
            fetch(pin, work / "files", homes)
        Store(work / "cache").record(pin, work / "files")

    def state(self, work: Path) -> str:
        """No record, or one of whole files; and what has its final name is right."""
        pin = read_pin(Path(self.given["pin"]))
        for file in pin.files:
            path = work / "files" / file.path
            if path.exists() and FileHashes().sha256(path) != file.sha256:
                return f"{file.path} is not whole"
        recorded = Store(work / "cache").find(pin.name)
        if recorded is None:
            return "old"
        return "new" if not recorded.faults(FileHashes()) else "recorded, and not whole"


class Remove(Fetch):
    """The removal of what was fetched and built."""

    def prepare(self, work: Path) -> None:
        """All of it."""
        super().act(work)
        Store(work / "cache").build_once("mine", {"a": "b"}, build)

    def act(self, work: Path) -> None:
        """Without a question."""
        Store(work / "cache").remove("mine")

    def state(self, work: Path) -> str:
        """All of it, or nothing that has a name."""
        store = Store(work / "cache")
        recorded = store.find("mine")
        if recorded is None:
            return "new"
        return "old" if not recorded.faults(FileHashes()) else "recorded, and not whole"

    def mend(self, work: Path) -> None:
        """Whoever looks next finishes it, or does it."""
        store = Store(work / "cache")
        if store.fetched():
            store.remove("mine")


class Build(Scenario):
    """The bundle that is built once."""

    def act(self, work: Path) -> None:
        """A folder of three files."""
        Store(work / "cache").build_once("mine", {"a": "b"}, build)

    def state(self, work: Path) -> str:
        """None, or a whole one."""
        built = Store(work / "cache").built("mine")
        if not built:
            return "old"
        return "new" if {path.name for path in built[0].iterdir()} == {"one", "two", "manifest.json"} else "half"


class CertifiedLane(Scenario):
    """The file that certify writes."""

    def prepare(self, work: Path) -> None:
        """An older one."""
        write_lane(work / "lane.json", self.lane("old"))

    def act(self, work: Path) -> None:
        """A newer one."""
        write_lane(work / "lane.json", self.lane("new"))

    def state(self, work: Path) -> str:
        """What its note says."""
        return read_lane(work / "lane.json").note

    @staticmethod
    def lane(note: str) -> Lane:
        """One with nothing measured."""
        return Lane(profile="cpu", artifact=LaneArtifact(name="tiny"), status="unmeasured", note=note)


def build(folder: Path) -> None:
    """Three files, the manifest last."""
    folder.mkdir(parents=True)
    for name in ("one", "two", "manifest.json"):
        with (folder / name).open("wb") as file:
            file.write(name.encode() * 100)


SCENARIOS: dict[str, type[Scenario]] = {
    "export": Export,
    "export-force": ExportForce,
    "import-force": Import,
    "fetch": Fetch,
    "remove": Remove,
    "build": Build,
    "lane": CertifiedLane,
}


def forked(work: Callable[[], object], answer: Path) -> int:
    """``work`` in a fork, which writes what it gives as JSON; the fork's exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        result = work()
    except TrinityError as error:
        result = f"{type(error).__name__}: {error}"
    except BaseException as error:
        result = f"traceback: {type(error).__name__}: {error}"
    answer.write_text(json.dumps(result))
    os._exit(0)


def content(work: Path) -> dict[str, str]:
    """Every file's hash, but of those whose content has times, and of locks, which stay."""
    files = (path for path in work.rglob("*") if path.is_file() and path.name != LOG and path.suffix != ".lock")
    kept = (path for path in files if path.name != "lock")
    return {path.relative_to(work).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def tried(scenario: Scenario, root: Path, at: int | None, torn: bool) -> tuple[int, list[str]]:
    """The work in ``root / "work"`` in a fork, killed at the point ``at``; the exit code, and the points passed."""

    def act() -> list[str]:
        death = Death(root / "work", at, torn)
        death.install()
        scenario.act(root / "work")
        return [*death.kinds]

    code = forked(act, root / "answer")
    answer = json.loads((root / "answer").read_text()) if not code else []
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return code, answer


def fresh(root: Path) -> None:
    """Everything as it was before."""
    shutil.rmtree(root / "work", ignore_errors=True)
    shutil.copytree(root / "before", root / "work")


def let_an_hour_pass(work: Path) -> None:
    """What is left over from a kill is swept once it is old."""
    for path in work.rglob("*"):
        os.utime(path, times=(time.time() - 3600, time.time() - 3600), follow_symlinks=False)


def faults_at(scenario: Scenario, root: Path, whole: dict[str, str], at: int, torn: bool) -> tuple[str, str]:
    """What was there after a kill, and what is wrong with that or with doing it anew; empty where nothing is."""
    fresh(root)
    code, _ = tried(scenario, root, at, torn)
    if code != KILLED:
        return "", "it was not killed"
    forked(lambda: scenario.state(root / "work"), root / "answer")
    state = json.loads((root / "answer").read_text())
    let_an_hour_pass(root / "work")
    forked(lambda: scenario.mend(root / "work"), root / "answer")
    said = json.loads((root / "answer").read_text())
    if state not in ("old", "new"):
        return state, f"there was {state}"
    if said is not None:
        return state, f"it could not be done anew: {said}"
    now = content(root / "work")
    return state, "" if now == whole else f"other files than without a kill: {sorted(now.items() ^ whole.items())}"


def chosen(kinds: list[str], limit: int) -> list[tuple[int, bool]]:
    """Which points to try: half of them renames, and of all others and of torn writes as many as there is time for."""
    renames = [(index, False) for index, kind in enumerate(kinds) if kind in ("os.rename", "exchange")]
    others = [(index, False) for index, kind in enumerate(kinds) if (index, False) not in renames]
    others += [(index, True) for index, kind in enumerate(kinds) if kind == "write"]
    Random(7).shuffle(others)
    first = renames[: max((limit + 1) // 2, limit - len(others))]
    return first + others[: limit - len(first)]


def main(name: str, folder: str, limit: str) -> Iterator[tuple[str, Any]]:
    """The report, entry by entry."""
    root, scenario = Path(folder), SCENARIOS[name](json.load(sys.stdin))
    (root / "before").mkdir(parents=True)
    (root / "work").mkdir()
    forked(lambda: scenario.prepare(root / "work"), root / "answer")
    (root / "before").rmdir()
    (root / "work").rename(root / "before")
    fresh(root)
    _, kinds = tried(scenario, root, None, False)
    whole = content(root / "work")
    points = chosen(kinds, int(limit))
    results = [(kinds[at], at, torn, *faults_at(scenario, root, whole, at, torn)) for at, torn in points]
    yield "points", len(kinds)
    yield "kills", len(results)
    yield "kinds", Counter(kinds)
    yield "states", Counter(state for *_, state, _ in results)
    yield "faults", [f"{kind} {at}{' torn' if torn else ''}: {fault}" for kind, at, torn, _, fault in results if fault]


if __name__ == "__main__":
    print(json.dumps(dict(main(*sys.argv[1:]))))
