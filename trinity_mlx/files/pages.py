"""Self-contained HTML pages: one style sheet inside, no script, and no request to anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_NO_FILTERS: Mapping[str, Callable[..., object]] = MappingProxyType({})


def render_page(
    folder: Path, values: Mapping[str, object], filters: Mapping[str, Callable[..., object]] = _NO_FILTERS
) -> str:
    """The template ``report.html.j2`` in ``folder`` with ``values``: each is escaped, and a missing one is an error.

    The template also has ``style``, the content of ``report.css`` there, and ``style_hash``, the source expression of a
    content security policy that allows exactly this style sheet.
    """
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    template = environment.get_template("report.html.j2")
    return template.render(style=style, style_hash=f"sha256-{digest}", **values).strip() + "\n"
