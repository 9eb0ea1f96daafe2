"""The prefix cache against a model of it that is too simple to be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trinity_mlx.routing.prefix_cache import PrefixCache, Tokens, common_prefix

MAX_BYTES = 100
MAX_ENTRIES = 6

tokens_of = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)
"""Sequences over three tokens, so that many of them begin alike."""


@dataclass(frozen=True, eq=False)
class FakePast:
    """A past that knows which tokens it was made from."""

    tokens: Tokens
    nbytes: int

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass
class NaiveCache:
    """The promise, spelled out with lists: entries from the least to the most recently used."""

    pasts: list[FakePast] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(past.nbytes for past in self.pasts)

    def longest_reuse(self, tokens: Tokens) -> int:
        return max((shared(past.tokens, tokens[:-1]) for past in self.pasts), default=0)

    def use(self, past: FakePast) -> None:
        self.pasts.remove(past)
        self.pasts.append(past)

    def store(self, new: FakePast) -> None:
        self.pasts = [past for past in self.pasts if shared(past.tokens, new.tokens) < past.length]
        self.pasts.append(new)
        while self.nbytes > MAX_BYTES or len(self.pasts) > MAX_ENTRIES:
            self.pasts.pop(0)


def shared(left: Tokens, right: Tokens) -> int:
    """Length of the longest common beginning, counted one by one."""
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


class CacheMachine(RuleBasedStateMachine):
    """Any history of stores, matches and clears."""

    @initialize()
    def start(self) -> None:
        self.cache = PrefixCache(MAX_BYTES, MAX_ENTRIES)
        self.naive = NaiveCache()

    @rule(tokens=tokens_of, nbytes=st.integers(1, MAX_BYTES))
    def store(self, tokens: Tokens, nbytes: int) -> None:
        past = FakePast(tokens, nbytes)
        self.cache.store(tokens, past)
        self.naive.store(past)

    @rule(tokens=tokens_of)
    def match(self, tokens: Tokens) -> None:
        past, reuse = self.cache.match(tokens)
        assert reuse == self.naive.longest_reuse(tokens)
        assert reuse < len(tokens)
        if reuse == 0:
            assert past is None
            return
        assert past in self.naive.pasts
        assert past.tokens[:reuse] == tokens[:reuse]
        self.naive.use(past)

    @precondition(lambda self: self.naive.pasts)
    @rule(data=st.data())
    def match_the_continuation_of_a_kept_past(self, data: st.DataObject) -> None:
        kept = data.draw(st.sampled_from(self.naive.pasts))
        past, reuse = self.cache.match((*kept.tokens, 0))
        assert reuse == kept.length
        assert past in self.naive.pasts
        self.naive.use(past)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.naive.pasts.clear()

    @invariant()
    def holds_what_the_naive_one_holds(self) -> None:
        assert len(self.cache) == len(self.naive.pasts)
        assert self.cache.nbytes == self.naive.nbytes <= MAX_BYTES


TestCacheAgainstNaiveOne = CacheMachine.TestCase


@given(st.lists(st.tuples(tokens_of, st.integers(0, 3 * MAX_BYTES)), max_size=20), st.integers(0, 2 * MAX_BYTES))
def test_bytes_never_exceed_the_bound(stores: list[tuple[Tokens, int]], bound: int) -> None:
    cache = PrefixCache(bound)
    for tokens, nbytes in stores:
        cache.store(tokens, FakePast(tokens, nbytes))
        assert 0 <= cache.nbytes <= bound


@given(tokens_of, st.integers(1, 9))
def test_a_bound_of_zero_keeps_nothing(tokens: Tokens, nbytes: int) -> None:
    cache = PrefixCache(0)
    cache.store(tokens, FakePast(tokens, nbytes))
    assert cache.match((*tokens, 0)) == (None, 0)
    assert len(cache) == 0


def test_the_last_token_is_always_read() -> None:
    cache = PrefixCache(MAX_BYTES)
    cache.store((1, 2, 3), FakePast((1, 2, 3), 1))
    assert cache.match((1, 2, 3))[1] == 2
    assert cache.match((1,)) == (None, 0)


def test_a_past_that_is_continued_is_dropped() -> None:
    cache = PrefixCache(MAX_BYTES)
    for tokens in ((1,), (1, 2), (1, 2, 3), (4,)):
        cache.store(tokens, FakePast(tokens, 10))
    assert len(cache) == 2
    assert cache.nbytes == 20


def test_storing_the_same_tokens_again_counts_them_once() -> None:
    cache = PrefixCache(MAX_BYTES)
    cache.store((1, 2), FakePast((1, 2), 30))
    newer = FakePast((1, 2), 40)
    cache.store((1, 2), newer)
    assert cache.nbytes == 40
    assert cache.match((1, 2, 3)) == (newer, 2)


def test_a_match_counts_as_use() -> None:
    cache = PrefixCache(2)
    cache.store((1,), FakePast((1,), 1))
    cache.store((2,), FakePast((2,), 1))
    cache.match((1, 9))
    cache.store((3,), FakePast((3,), 1))
    assert [cache.match((token, 9))[1] for token in (1, 2, 3)] == [1, 0, 1]


def test_a_past_too_large_to_keep_leaves_the_others_alone() -> None:
    cache = PrefixCache(MAX_BYTES)
    cache.store((1,), FakePast((1,), 10))
    cache.store((2,), FakePast((2,), MAX_BYTES + 1))
    assert cache.match((1, 9))[1] == 1
    assert cache.match((2, 9))[1] == 0


@given(st.lists(st.integers(0, 1), max_size=20).map(tuple), st.lists(st.integers(0, 1), max_size=20).map(tuple))
def test_common_prefix_is_what_counting_gives(left: Tokens, right: Tokens) -> None:
    assert common_prefix(left, right) == shared(left, right)


@given(st.lists(st.integers(), max_size=40).map(tuple), st.data())
def test_common_prefix_of_a_sequence_and_its_continuation(whole: Tokens, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(whole)))
    assert common_prefix(whole[:cut], whole) == common_prefix(whole, whole[:cut]) == cut
