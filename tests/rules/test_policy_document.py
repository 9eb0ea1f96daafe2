"""docs/policies.md says of every option what it is in both policies."""

from __future__ import annotations

from pathlib import Path

import pytest

import trinity_mlx
from trinity_mlx.rules.policy import POLICIES

DOCUMENT = Path(trinity_mlx.__file__).parent.parent / "docs" / "policies.md"


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="the documents lie in the checkout")
def test_the_table_holds_every_option_with_its_values() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines if line.startswith("| `")]
    default, published = (POLICIES[name].to_dict() for name in ("default", "published"))
    expected = [[f"`{name}`", shown(default[name]), shown(published[name])] for name in default if name != "name"]
    assert rows == expected


def shown(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
