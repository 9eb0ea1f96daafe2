"""What a bundle calls the base that it was made for, where nobody named it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..contracts.artifact import Base

_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})")


def name_of_base(base: Base) -> tuple[str, str | None]:
    """Name and revision: those of the Hub for a base in its cache, else the folder's name and no revision."""
    cached = _SNAPSHOT.search(base.folder.absolute().as_posix())
    return (f"{cached[1]}/{cached[2]}", cached[3]) if cached else (base.folder.resolve().name, None)
