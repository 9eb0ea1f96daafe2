"""Where a training's bundle goes, and the folder beside it where checkpoints lie until it is sealed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.bundle import open_bundle
from ..artifacts.manifest import MANIFEST_NAME
from ..contracts.artifact import Bundle
from ..contracts.errors import FolderUnavailable, OutputExists, UsageError

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Output:
    """The places of one training's results.

    Attributes:
        bundle: the folder that the bundle will have.
        resume: whether a training that was broken off there is gone on with.
        force: whether what lies there is replaced.
    """

    bundle: Path
    resume: bool
    force: bool

    @property
    def workspace(self) -> Path:
        """Where checkpoints and metrics lie until the bundle is sealed."""
        return self.bundle.with_name(f"{self.bundle.name}.training")

    def claim(self) -> None:
        """Make sure that a training may work here; with ``force``, one that was broken off goes.

        Raises:
            OutputExists: something lies at ``bundle``, or a training beside it, and ``force`` is not set.
            UsageError: what lies there is nothing that a training made, and is never replaced.
            FolderUnavailable: no folder can be made there.
        """
        if os.path.lexists(self.bundle):
            if not self.force:
                raise OutputExists(f"{self.bundle} exists already: choose another folder, or have it replaced")
            self._check_replaceable()
        if not os.path.lexists(self.workspace):
            self._check_writable()
            return
        if self.resume:
            return
        if not self._is_workspace():
            raise UsageError(f"{self.workspace} is no training, and is not replaced: choose another folder")
        if not self.force:
            raise OutputExists(f"{self.workspace} holds a training that was broken off: resume it, or have it replaced")
        shutil.rmtree(self.workspace)

    def publish(self, sealed: Path) -> Bundle:
        """Move the ``sealed`` bundle to its place, in place of what is there, and open it; the workspace goes.

        Raises:
            UsageError: what lies at ``bundle`` by now is no bundle.
            FolderUnavailable: it cannot be moved.
        """
        try:
            if os.path.lexists(self.bundle):
                self._check_replaceable()
                shutil.rmtree(self.bundle)
            sealed.rename(self.bundle)
            shutil.rmtree(self.workspace, ignore_errors=True)
        except OSError as error:
            raise FolderUnavailable(f"{self.bundle}: {error.strerror or error}") from None
        return open_bundle(self.bundle)

    def _check_writable(self) -> None:
        try:
            self.workspace.mkdir(parents=True)
            self.workspace.rmdir()
        except OSError as error:
            raise FolderUnavailable(f"{self.workspace} cannot be written to: {error.strerror or error}") from None

    def _check_replaceable(self) -> None:
        if self.bundle.is_symlink() or not (self.bundle / MANIFEST_NAME).is_file():
            raise UsageError(f"{self.bundle} is no bundle's folder, and is not replaced: choose another folder")

    def _is_workspace(self) -> bool:
        """Whether a training made the workspace: it is empty, or some name in it is one that a training gives."""
        if self.workspace.is_symlink() or not self.workspace.is_dir():
            return False
        names = [path.name for path in self.workspace.iterdir()]
        return not names or any(name == METRICS or name.lstrip(".").startswith("checkpoint") for name in names)
