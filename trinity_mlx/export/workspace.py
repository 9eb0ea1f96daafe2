"""Where an unfinished export keeps what it has: the folder ``.export`` inside its output folder.

``state.json`` says which inputs the export was begun from and which tensors are finished, with their hashes; the
adapter's file lies beside it until it is whole. As long as ``state.json`` exists the export is unfinished, whatever
else lies there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..artifacts.bundle import ADAPTER_FILE, HEAD_FILE, open_bundle
from ..artifacts.manifest import MANIFEST_NAME
from ..contracts.artifact import Bundle
from ..contracts.canonical import unique_keys
from ..contracts.errors import FolderUnavailable, OutputExists, ResumeRefused, TensorFileInvalid, UsageError
from ..files.atomic import json_bytes, write_atomically
from ..files.folders import exchange
from ..files.regular import read_regular
from ..files.safetensors_writer import SafetensorsWriter, TensorSpec
from .event_log import LOG_NAME

CARD_NAME = "README.md"
_FOLDER = ".export"
_STATE = "state.json"
_PRODUCTS = (MANIFEST_NAME, ADAPTER_FILE, HEAD_FILE, CARD_NAME, LOG_NAME)
_SHOWN = 4


class Workspace:
    """An export under way. ``finished`` maps the tensors that are done to their hashes, all of them verified."""

    def __init__(self, out: Path, export: Mapping[str, Any], specs: Sequence[TensorSpec]) -> None:
        self._out = out
        self._folder = out / _FOLDER
        self._export = export
        self.finished: dict[str, str] = _read_state(out).get("finished", {})
        partial = self._folder / ADAPTER_FILE
        if len(self.finished) == len(specs):
            self._take_back(partial)
        _sweep(out)
        self.adapter = SafetensorsWriter(partial, specs)
        self._verify({spec.name for spec in specs})

    def record(self, tensor: str, sha256: str) -> None:
        """``tensor`` is finished: it lies in the adapter's file, on the disk."""
        self.finished[tensor] = sha256
        _write_state(self._out, self._export, self.finished)

    def stage(self, name: str) -> Path:
        """Where to write a file that ``publish`` will move into the bundle."""
        return self._folder / name

    def publish(self, seal: Callable[[Path], Bundle]) -> Bundle:
        """Bring the adapter and what was staged to where the bundle has them; ``seal`` writes the manifest in a folder.

        An old bundle opens until the new one is whole, and gives way in one step where the system has one and nothing
        else lies in its folder; else there is none for a moment.
        """
        is_replaced = {path.name for path in self._out.iterdir()} <= {*_PRODUCTS, _FOLDER}
        if (self._out / MANIFEST_NAME).exists() and is_replaced and self._exchange(seal):
            return open_bundle(self._out)
        (self._out / MANIFEST_NAME).unlink(missing_ok=True)
        self._move(self._folder, self._out)
        return seal(self._out)

    def close(self) -> None:
        """The bundle is sealed: nothing here is needed any more."""
        (self._folder / _STATE).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        _sweep(self._out)

    def _exchange(self, seal: Callable[[Path], Bundle]) -> bool:
        """Seal a folder of its own and swap it with the old bundle; False, with nothing done, where that cannot be."""
        fresh, beside = self._folder / "bundle", _beside(self._out)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        self._move(self._folder, fresh)
        shutil.copyfile(self._out / LOG_NAME, fresh / LOG_NAME)
        seal(fresh)
        with suppress(OSError):  # another file system, or no right to write there
            fresh.rename(beside)
            if exchange(beside, self._out):
                return True
            beside.rename(fresh)
        self._move(fresh, self._folder)
        return False

    def _take_back(self, partial: Path) -> None:
        """The adapter's file from wherever a process that was killed had moved it on its way into the bundle."""
        own = [] if self._holds_another() else [self._out]
        for place in (self._folder / "bundle", _beside(self._out), *own):
            if not partial.exists() and (place / ADAPTER_FILE).exists():
                (place / ADAPTER_FILE).replace(partial)

    def _holds_another(self) -> bool:
        """Whether a sealed bundle lies in the output folder that is not what is being exported."""
        try:
            manifest = json.loads(read_regular(self._out / MANIFEST_NAME))
            return any(manifest.get(key) != value for key, value in self._export.items())
        except FileNotFoundError:
            return False
        except (OSError, ValueError, AttributeError, RecursionError):
            return True

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        for name in (ADAPTER_FILE, HEAD_FILE, CARD_NAME):
            (source / name).replace(target / name)

    def _verify(self, names: Container[str]) -> None:
        for name, sha256 in self.finished.items():
            if name not in names:
                raise _no_state(_state_path(self._out), f"tensor {name[:80]!r} is none of this export")
            if self.adapter.sha256(name) != sha256:
                raise ResumeRefused(
                    f"{self._folder / ADAPTER_FILE}: tensor {name!r} was finished and has changed since: start anew"
                )


@contextmanager
def claim(
    out: Path, export: Mapping[str, Any], specs: Sequence[TensorSpec], *, resume: bool, force: bool
) -> Iterator[Workspace]:
    """The workspace for ``export`` in ``out``, for this process alone.

    Args:
        out: the output folder; it is made where it is missing.
        export: everything that the result depends on, as plain JSON.
        specs: the tensors of the adapter's file.
        resume: go on with an unfinished export of the same description.
        force: replace what lies in ``out`` under the names that an export writes.

    Raises:
        OutputExists: something lies in ``out``, and neither ``resume`` nor ``force`` allows to touch it.
        UsageError: ``out`` is a file.
        ResumeRefused: the unfinished export there has another description, or its finished tensors have changed.
        FolderUnavailable: another process is exporting there.
    """
    _refuse_occupied(out, resume=resume, force=force)
    (out / _FOLDER).mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if force or not _state_path(out).exists():
            _begin(out, export)
        else:
            _refuse_changed(out, export)
        try:
            workspace = Workspace(out, export, specs)
        except TensorFileInvalid as error:
            raise ResumeRefused(f"{error}; start anew") from None
        yield workspace


def is_finished(out: Path) -> bool:
    """Whether ``out`` holds a sealed bundle and no unfinished export."""
    return (out / MANIFEST_NAME).is_file() and not _state_path(out).exists()


def tidy(out: Path) -> None:
    """Remove what a process that was killed after it had sealed its bundle may have left in ``out``."""
    if (out / _FOLDER).is_dir():
        with _locked(out):
            if is_finished(out):
                shutil.rmtree(out / _FOLDER, ignore_errors=True)
    _sweep(out)


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """What changed between two pieces of plain JSON: one line for each leaf, ``place: before -> now``."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [f"{where}: {_shown(before)} -> {_shown(now)}"]
    return [
        line
        for key in [*before, *(key for key in now if key not in before)]
        for line in differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    ]


def refuse_differences(out: Path, what: str, changed: Sequence[str]) -> None:
    """Say what differs from the request, if anything does.

    Raises:
        ResumeRefused: ``changed`` is not empty.
    """
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ResumeRefused(
            f"{out} holds {what} of other inputs: {'; '.join(changed[:_SHOWN])}{more}; "
            "replace it, or choose another folder"
        )


def _refuse_occupied(out: Path, *, resume: bool, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder")
    names = sorted(path.name for path in out.iterdir() if path.name != _FOLDER) if out.is_dir() else []
    if force:
        return
    if _state_path(out).exists():
        if not resume:
            raise OutputExists(f"{out} holds an unfinished export: resume it, or start anew")
    elif MANIFEST_NAME in names:
        raise OutputExists(f"{out} holds a finished bundle: replace it, or choose another folder")
    elif names:
        shown = ", ".join(names[:_SHOWN])
        raise OutputExists(f"{out} is not empty ({shown}): choose another folder, or force it to be written into")


def _refuse_changed(out: Path, export: Mapping[str, Any]) -> None:
    refuse_differences(out, "an unfinished export", differences(_read_state(out).get("export"), export))


def _begin(out: Path, export: Mapping[str, Any]) -> None:
    """From here on, an unfinished export lies in ``out``; an old bundle there still opens."""
    _state_path(out).unlink(missing_ok=True)
    (out / _FOLDER / ADAPTER_FILE).unlink(missing_ok=True)
    _write_state(out, export, {})
    (out / LOG_NAME).unlink(missing_ok=True)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        with FileLock(out / _FOLDER / "lock", timeout=0):
            yield
    except Timeout:
        raise FolderUnavailable(f"another process is exporting into {out}: wait for it, or stop it") from None


def _beside(out: Path) -> Path:
    """Where a sealed bundle waits for its place, and the old one is left for which it was swapped."""
    return out.resolve().with_name(f".{out.resolve().name}.exported")


def _sweep(out: Path) -> None:
    shutil.rmtree(_beside(out), ignore_errors=True)


def _state_path(out: Path) -> Path:
    return out / _FOLDER / _STATE


def _read_state(out: Path) -> dict[str, Any]:
    path = _state_path(out)
    try:
        state = json.loads(read_regular(path), object_pairs_hook=unique_keys)
        finished = state["finished"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_state(path, repr(error)[:200]) from None
    if not isinstance(finished, dict) or not all(isinstance(sha256, str) for sha256 in finished.values()):
        raise _no_state(path, "it does not say which tensors are finished")
    return dict(state)


def _no_state(path: Path, why: str) -> ResumeRefused:
    return ResumeRefused(f"{path} is no state of an export ({why}): start anew")


def _write_state(out: Path, export: Mapping[str, Any], finished: Mapping[str, str]) -> None:
    write_atomically(_state_path(out), json_bytes({"export": export, "finished": finished}))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
