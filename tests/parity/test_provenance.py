"""Published hashes: known by name, and demanded of nobody who lacks their components."""

from __future__ import annotations

import pytest

from trinity_mlx.parity.provenance import PUBLISHED, is_reproduced

PUBLISHED_VECTOR = "b9bf105b818cc32f3a25877b75adce1ec65e5201d524b929d217eb045a6ffa05"
SAME_AS_NPY = "769f64ee4e01080ff67e64a677ed3ce5268da69cdf7a44810accb096ef64ab10"

HISTORICAL = "600be6ab0f5a34325b9857182ccb5fce5971549a0ce8588cdacc992eda54014c"
REPRODUCIBLE = "5aaa24c15898794dec09dccae650e35549c33cc24815e70ac6641cc3b466b725"


def test_both_hashes_are_known_by_name() -> None:
    assert PUBLISHED == {HISTORICAL: "historical", REPRODUCIBLE: "reproducible"}


@pytest.mark.parametrize(
    ("kind", "vector", "found", "answer"),
    [
        ("reference", PUBLISHED_VECTOR, HISTORICAL, True),
        ("reference", PUBLISHED_VECTOR, REPRODUCIBLE, False),
        ("reference", SAME_AS_NPY, HISTORICAL, True),
        ("reference", PUBLISHED_VECTOR, None, None),
        ("reference", "0" * 64, HISTORICAL, None),
        ("run", PUBLISHED_VECTOR, HISTORICAL, None),
    ],
)
def test_only_a_reference_of_the_published_vector_can_reproduce_the_historical_hash(
    kind: str, vector: str, found: str | None, answer: bool | None
) -> None:
    assert is_reproduced(kind, vector, found) is answer
