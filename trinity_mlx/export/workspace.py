"""Where an unfinished export keeps what it has: the folder ``.export`` inside its output folder.

``state.json`` says which inputs the export was begun from and which tensors are finished, with their hashes; the
adapter's file lies beside it until it is whole. As long as ``state.json`` exists the export is unfinished, whatever
else lies there.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..artifacts.bundle import ADAPTER_FILE, HEAD_FILE
from ..artifacts.manifest import MANIFEST_NAME
from ..contracts.errors import FolderUnavailable, OutputExists, ResumeRefused, TensorFileInvalid
from ..files.atomic import write_atomically
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
        if not partial.exists() and len(self.finished) == len(specs) and (out / ADAPTER_FILE).exists():
            (out / ADAPTER_FILE).replace(partial)
        self.adapter = SafetensorsWriter(partial, specs)
        self._verify()

    def record(self, tensor: str, sha256: str) -> None:
        """``tensor`` is finished: it lies in the adapter's file, on the disk."""
        self.finished[tensor] = sha256
        _write_state(self._out, self._export, self.finished)

    def stage(self, name: str) -> Path:
        """Where to write a file that ``publish`` will move into the bundle."""
        return self._folder / name

    def publish(self) -> None:
        """Move the adapter and what was staged to where the bundle has them."""
        for name in (ADAPTER_FILE, HEAD_FILE, CARD_NAME):
            (self._folder / name).replace(self._out / name)

    def close(self) -> None:
        """The bundle is sealed: nothing here is needed any more."""
        (self._folder / _STATE).unlink()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _verify(self) -> None:
        for name, sha256 in self.finished.items():
            if self.adapter.sha256(name) != sha256:
                raise ResumeRefused(
                    f"{self._folder / ADAPTER_FILE}: tensor {name!r} was finished and has changed since; "
                    "start anew with --force"
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
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        try:
            workspace = Workspace(out, export, specs)
        except TensorFileInvalid as error:
            raise ResumeRefused(f"{error}; start anew with --force") from None
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
            f"{out} holds {what} of other inputs: {'; '.join(changed[:_SHOWN])}{more}. "
            "Give --force to replace it, or another --out"
        )


def _refuse_occupied(out: Path, *, resume: bool, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out} is a file: give a folder")
    held = sorted(path.name for path in out.iterdir() if path.name != _FOLDER) if out.is_dir() else []
    if force:
        return
    if _state_path(out).exists():
        if not resume:
            raise OutputExists(f"{out} holds an unfinished export: go on with --resume, or start anew with --force")
    elif MANIFEST_NAME in held:
        raise OutputExists(f"{out} holds a finished bundle: replace it with --force, or give another --out")
    elif held:
        shown = ", ".join(held[:_SHOWN])
        raise OutputExists(f"{out} is not empty ({shown}): give another --out, or --force to write into it")


def _refuse_changed(out: Path, export: Mapping[str, Any]) -> None:
    refuse_differences(out, "an unfinished export", differences(_read_state(out).get("export"), export))


def _begin(out: Path, export: Mapping[str, Any]) -> None:
    """From here on, what lay in ``out`` under our names is given up."""
    _state_path(out).unlink(missing_ok=True)
    (out / _FOLDER / ADAPTER_FILE).unlink(missing_ok=True)
    _write_state(out, export, {})
    for name in _PRODUCTS:
        (out / name).unlink(missing_ok=True)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    with (out / _FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderUnavailable(f"another process is exporting into {out}: wait for it, or stop it") from None
        yield


def _state_path(out: Path) -> Path:
    return out / _FOLDER / _STATE


def _read_state(out: Path) -> dict[str, Any]:
    path = _state_path(out)
    try:
        state = json.loads(path.read_bytes())
        finished = state["finished"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeRefused(f"{path} is no state of an export ({error!r}): start anew with --force") from None
    if not isinstance(finished, dict):
        raise ResumeRefused(f"{path} is no state of an export: start anew with --force")
    return dict(state)


def _write_state(out: Path, export: Mapping[str, Any], finished: Mapping[str, str]) -> None:
    text = json.dumps({"export": export, "finished": finished}, indent=2, ensure_ascii=False)
    write_atomically(_state_path(out), text.encode("utf-8"))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
