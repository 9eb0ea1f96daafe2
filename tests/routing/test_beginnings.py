"""What several sequences have in common is read once, and only where that saves enough."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from trinity_mlx.routing.beginnings import common_beginnings
from trinity_mlx.routing.prefix_cache import Tokens

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), max_size=9, unique=True)


def saved(length: int, members: tuple[int, ...], reuse: list[int]) -> int:
    """Tokens that need not be read, counted one by one."""
    before = sum(max(length - reuse[member], 0) for member in members)
    return before - max(length - max(reuse[member] for member in members), 0)


@given(sequences, st.data(), st.integers(1, 12))
@example([(0,), (0, 1)], None, 1)
def test_beginnings_are_shared_disjoint_and_worth_it(batch: list[Tokens], data: st.DataObject, worth: int) -> None:
    reuse = [data.draw(st.integers(0, len(tokens) - 1)) if data else 0 for tokens in batch]
    found = common_beginnings(batch, reuse, worth)
    members = [member for beginning in found for member in beginning.members]
    assert len(members) == len(set(members))
    for beginning in found:
        assert len({batch[member][: beginning.length] for member in beginning.members}) == 1
        assert all(beginning.length < len(batch[member]) for member in beginning.members)
        assert saved(beginning.length, beginning.members, reuse) >= worth


@given(sequences, st.integers(1, 12))
def test_one_beginning_that_would_save_enough_is_not_overlooked(batch: list[Tokens], worth: int) -> None:
    fresh = [0] * len(batch)
    found = sum(saved(each.length, each.members, fresh) for each in common_beginnings(batch, fresh, worth))
    for length in range(1, 12):
        for beginning in {tokens[:length] for tokens in batch if len(tokens) > length}:
            members = tuple(
                place for place, tokens in enumerate(batch) if len(tokens) > length and tokens[:length] == beginning
            )
            if saved(length, members, fresh) >= worth:
                assert found >= saved(length, members, fresh)


def test_groups_are_told_apart() -> None:
    left, right = tuple(range(50)), tuple(range(100, 180))
    batch = [(*left, 1), (*right, 1), (*left, 2), (*right, 2), (7, 7), (*right, 3)]
    found = common_beginnings(batch, [0] * len(batch), worth=10)
    assert {(each.length, frozenset(each.members)) for each in found} == {
        (50, frozenset({0, 2})),
        (80, frozenset({1, 3, 5})),
    }


def test_what_is_known_anyway_is_not_read_again() -> None:
    shared = tuple(range(100))
    batch = [(*shared, 1, 2), (*shared, 3, 4), (*shared, 5, 6)]
    assert common_beginnings(batch, [100, 100, 100], worth=1) == []
    assert [each.length for each in common_beginnings(batch, [0, 100, 0], worth=1)] == [100]
