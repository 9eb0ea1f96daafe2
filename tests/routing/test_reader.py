"""What the reader promises about batches, memory and repetition, with a real model that is watched."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.backend import RoutingModel, Segment
from trinity_mlx.contracts.errors import NonFiniteLogits
from trinity_mlx.contracts.routing import RouteLogits
from trinity_mlx.routing.batcher import Answer
from trinity_mlx.routing.reader import Answers, Reader, in_batches, needed_tokens

from .. import builders
from ..builders import reads_models, relative, worst

PLENTY = 64 * 1024 * 1024

ids = st.integers(0, builders.TINY["vocab_size"] - 1)
sequences = st.lists(ids, min_size=1, max_size=30).map(tuple)


class WatchedModel:
    """A routing model that notes what it is asked to read."""

    def __init__(self, model: RoutingModel, batch_tokens: int | None = None) -> None:
        self._model = model
        self.batch_tokens = batch_tokens or model.batch_tokens
        self.reads: list[list[Segment]] = []

    def logits(self, segments: Sequence[Segment]) -> Any:
        self.reads.append(list(segments))
        return self._model.logits(segments)

    def read(self, segments: Sequence[Segment]) -> Any:
        self.reads.append(list(segments))
        return self._model.read(segments)

    def values(self, hidden: Any) -> list[list[float]]:
        return self._model.values(hidden)

    @property
    def fresh_counts(self) -> list[int]:
        """Tokens computed in each read."""
        return [sum(len(segment.fresh) for segment in segments) for segments in self.reads]


@pytest.fixture(scope="module", params=builders.BACKENDS)
def any_model(request: pytest.FixtureRequest, tiny_base: Base, tiny_bundle: Bundle) -> RoutingModel:
    return builders.cpu_model(request.param, tiny_base, tiny_bundle)


@pytest.fixture
def watched(any_model: RoutingModel) -> WatchedModel:
    return WatchedModel(any_model)


def tokens_of(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, length]).integers(0, builders.TINY["vocab_size"], length).tolist())


def flat(logits: RouteLogits) -> tuple[float, ...]:
    return logits.agent + logits.role


# --- what the answer is -----------------------------------------------------------------------------------------------


@reads_models
@given(sequences)
def test_answer_is_the_head_over_the_oracles_hidden_vector(
    any_model: RoutingModel, adapted_recipe: builders.PlainRecipe, tiny_head: np.ndarray, tokens: tuple[int, ...]
) -> None:
    expected = tiny_head.astype(np.float64) @ adapted_recipe.hidden(tokens).astype(np.float64)
    logits = Reader(any_model, PLENTY).read(tokens).logits
    assert len(logits.agent) == len(builders.LABELS)
    assert relative(flat(logits), expected) <= 2e-5


@reads_models
@given(st.lists(sequences, max_size=8))
def test_many_at_once_are_the_answers_one_by_one_in_order(any_model: RoutingModel, batch: list[Any]) -> None:
    together = Reader(any_model, 0).read_many(batch)
    assert len(together) == len(batch)
    for answer, tokens in zip(together, batch, strict=True):
        assert relative(flat(answer.logits), flat(Reader(any_model, 0).read(tokens).logits)) <= 2e-5


@reads_models
@given(st.lists(ids, min_size=2, max_size=30), ids)
def test_the_last_token_does_not_matter_when_there_are_more(
    any_model: RoutingModel, tokens: list[int], other: int
) -> None:
    first, second = (Reader(any_model, 0).read((*tokens[:-1], last)) for last in (tokens[-1], other))
    assert first.logits == second.logits


def test_the_last_token_is_never_computed(watched: WatchedModel) -> None:
    reader = Reader(watched, 0)
    for length in (1, 2, 3, 10):
        reader.read(tokens_of(length))
    assert watched.fresh_counts == [1, 1, 2, 9]


# --- batches ----------------------------------------------------------------------------------------------------------


@given(st.lists(sequences, max_size=30), st.integers(1, 60))
def test_batches_hold_every_sequence_once_within_the_bound(batch: list[Any], bound: int) -> None:
    made = list(in_batches(batch, bound))
    assert [tokens for part in made for tokens in part] == batch
    assert all(sum(map(len, part)) <= bound or len(part) == 1 for part in made)
    assert all(made)


@given(st.lists(sequences, max_size=30), st.integers(1, 60))
def test_batches_are_not_split_without_need(batch: list[Any], bound: int) -> None:
    made = list(in_batches(batch, bound))
    for earlier, later in pairwise(made):
        assert sum(map(len, earlier)) + len(later[0]) > bound


def test_reading_many_respects_the_models_batch_size(any_model: RoutingModel) -> None:
    watched = WatchedModel(any_model, batch_tokens=50)
    Reader(watched, PLENTY).read_many([tokens_of(length) for length in (20, 30, 25, 80, 9, 10, 11)])
    assert all(count <= 50 or len(read) == 1 for count, read in zip(watched.fresh_counts, watched.reads, strict=True))
    assert sum(watched.fresh_counts) == 185 - 7
    assert len(watched.reads) == 4


def test_equal_sequences_are_read_once(watched: WatchedModel) -> None:
    first, second = tokens_of(12), tokens_of(9)
    answers = Reader(watched, 0).read_many([first, second, first, first])
    assert watched.fresh_counts == [11 + 8]
    assert answers[0].logits == answers[2].logits == answers[3].logits != answers[1].logits


def conversations(count: int, shared: int, own: int = 20) -> list[tuple[int, ...]]:
    return [tokens_of(shared) + tokens_of(own, seed=seed + 1) for seed in range(count)]


def test_a_long_beginning_that_many_share_is_read_once(any_model: RoutingModel) -> None:
    watched, batch = WatchedModel(any_model, batch_tokens=200), conversations(8, shared=150)
    answers = Reader(watched).read_many(batch)
    assert watched.fresh_counts == [150, 8 * 19]
    assert [answer.reused for answer in answers] == [150] * 8
    for answer, tokens in zip(answers, batch, strict=True):
        assert relative(flat(answer.logits), flat(Reader(any_model).read(tokens).logits)) <= 2e-5


def test_a_short_beginning_is_not_worth_a_pass(any_model: RoutingModel) -> None:
    watched = WatchedModel(any_model, batch_tokens=200)
    Reader(watched).read_many(conversations(3, shared=10))
    assert watched.fresh_counts == [3 * 29]


def test_a_beginning_in_memory_is_not_read_again_for_others(any_model: RoutingModel) -> None:
    watched, (first, *others) = WatchedModel(any_model, batch_tokens=200), conversations(6, shared=150)
    reader = Reader(watched, PLENTY)
    reader.read(first)
    assert [answer.reused for answer in reader.read_many(others)] == [150] * 5
    assert watched.fresh_counts == [169, 5 * 19]


def test_conversations_read_together_go_on_from_their_own_pasts(any_model: RoutingModel) -> None:
    watched, batch = WatchedModel(any_model, batch_tokens=1000), conversations(4, shared=150)
    reader = Reader(watched, PLENTY)
    for future in [reader.submit(tokens) for tokens in batch]:
        future.result()
    longer = [(*tokens, *tokens_of(5, seed=50 + place)) for place, tokens in enumerate(batch)]
    assert [reader.read(tokens).reused for tokens in longer] == [169] * 4
    assert watched.fresh_counts[-4:] == [5] * 4


class Broken(WatchedModel):
    """Gives no number for sequences that begin with 7."""

    def logits(self, segments: Sequence[Segment]) -> Any:
        rows, pasts = super().logits(segments)
        return [
            (math.nan,) * 10 if each.tokens[0] == 7 else row for each, row in zip(segments, rows, strict=True)
        ], pasts


def test_a_sequence_without_finite_logits_fails_alone(any_model: RoutingModel) -> None:
    reader = Reader(Broken(any_model), PLENTY)
    good, bad = reader.submit((1, 2, 3)), reader.submit((7, 2, 3))
    with pytest.raises(NonFiniteLogits):
        bad.result()
    assert good.result().logits == reader.read((1, 2, 3)).logits


def test_hidden_vectors_are_read_afresh(watched: WatchedModel, any_model: RoutingModel) -> None:
    reader, batch = Reader(watched, PLENTY), [tokens_of(length) for length in (20, 1, 30)]
    reader.read_many(batch)
    expected = [builders.hidden(any_model, Segment(needed_tokens(tokens)))[0] for tokens in batch]
    assert worst(np.array(reader.values(batch)), np.array(expected)) <= 2e-5
    assert watched.fresh_counts == [19 + 1 + 29] * 2


def test_nothing_to_read_reads_nothing(watched: WatchedModel) -> None:
    assert Reader(watched, PLENTY).read_many([]) == []
    assert watched.reads == []


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_growing_conversation_reads_only_what_is_new(watched: WatchedModel) -> None:
    reader, whole = Reader(watched, PLENTY), tokens_of(500)
    answers = [reader.read(whole[:length]) for length in (100, 180, 181, 350, 500)]
    assert watched.fresh_counts == [99, 80, 1, 169, 150]
    assert [answer.reused for answer in answers] == [0, 99, 179, 180, 349]
    unaided = [Reader(watched, 0).read(whole[:length]) for length in (100, 180, 181, 350, 500)]
    for found, expected in zip(answers, unaided, strict=True):
        assert relative(flat(found.logits), flat(expected.logits)) <= 2e-5


def test_two_conversations_in_turn_do_not_disturb_each_other(watched: WatchedModel) -> None:
    reader, left, right = Reader(watched, PLENTY), tokens_of(90, seed=1), tokens_of(90, seed=2)
    for length in (30, 60, 90):
        reader.read(left[:length])
        reader.read(right[:length])
    assert watched.fresh_counts == [29, 29, 30, 30, 30, 30]


def test_a_batch_continues_what_was_read_one_by_one(watched: WatchedModel) -> None:
    reader, left, right = Reader(watched, PLENTY), tokens_of(40, seed=1), tokens_of(40, seed=2)
    reader.read(left[:30])
    reader.read(right[:20])
    answers = reader.read_many([left, right, tokens_of(10)])
    assert watched.fresh_counts == [29, 19, 10 + 20 + 9]
    assert [answer.reused for answer in answers] == [29, 19, 0]


def test_a_cache_of_a_few_bytes_forgets_but_stays_right(any_model: RoutingModel) -> None:
    watched = WatchedModel(any_model)
    one_past = 50 * 3 * 2 * 2 * 32 * 4
    reader, left, right = Reader(watched, one_past), tokens_of(51, seed=1), tokens_of(51, seed=2)
    for tokens in (left, right):
        reader.read(tokens)
    found = reader.read((*left[:50], 5, 6))
    assert watched.fresh_counts == [50, 50, 51]
    assert relative(flat(found.logits), flat(Reader(any_model, 0).read((*left[:50], 5, 6)).logits)) <= 2e-5


@reads_models
@given(st.lists(sequences, min_size=1, max_size=6), st.data())
def test_the_same_tokens_give_the_same_bits_whatever_came_between(
    any_model: RoutingModel, pool: list[Any], data: st.DataObject
) -> None:
    reader = Reader(any_model, PLENTY)
    first: dict[Any, RouteLogits] = {}
    for _ in range(6):
        if data.draw(st.booleans()):
            chosen = [data.draw(st.sampled_from(pool))]
            answers = [reader.read(chosen[0])]
        else:
            chosen = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))
            answers = reader.read_many(chosen)
        for tokens, answer in zip(chosen, answers, strict=True):
            assert first.setdefault(needed_tokens(tokens), answer.logits) == answer.logits


@pytest.mark.parametrize("many", [False, True])
def test_a_known_answer_is_not_computed_again(watched: WatchedModel, many: bool) -> None:
    reader, tokens = Reader(watched, PLENTY), tokens_of(20)
    first = reader.read_many([tokens])[0] if many else reader.read(tokens)
    assert reader.read(tokens).logits == reader.read_many([tokens])[0].logits == first.logits
    assert len(watched.reads) == 1


def test_a_known_answer_reports_every_token_as_reused(watched: WatchedModel) -> None:
    reader, tokens = Reader(watched, PLENTY), tokens_of(20)
    reader.read(tokens)
    assert reader.read(tokens).reused == 20
    assert reader.read_many([tokens])[0].reused == 20


def test_forget_computes_again(watched: WatchedModel) -> None:
    reader, tokens = Reader(watched, PLENTY), tokens_of(20)
    first = reader.read(tokens)
    reader.forget()
    assert reader.read(tokens) == first
    assert watched.fresh_counts == [19, 19]


def test_a_cache_of_no_bytes_remembers_nothing(watched: WatchedModel) -> None:
    reader, tokens = Reader(watched, 0), tokens_of(20)
    for _ in range(2):
        reader.read(tokens)
        reader.read_many([tokens])
    reader.read((*tokens, 1, 2))
    assert watched.fresh_counts == [19, 19, 19, 19, 21]


def test_users_share_what_the_most_generous_allows(watched: WatchedModel) -> None:
    reader, tokens = Reader(watched), tokens_of(20)
    leave = reader.admit(0)
    stay = reader.admit(PLENTY)
    first = reader.read(tokens)
    assert reader.read(tokens) == Answer(first.logits, 20)
    assert reader.read(tokens, remember=False).reused == 0
    leave()
    assert reader.read(tokens).reused == 20
    stay()
    assert reader.read(tokens).reused == 0
    assert watched.fresh_counts == [19, 19, 19]


@pytest.mark.parametrize(("length", "count"), [(4, 3_000), (40, 3_000), (400, 600)])
def test_remembered_answers_take_what_they_are_counted_as(length: int, count: int) -> None:
    budget = 500_000
    answers = Answers(budget)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        values = [number + 0.5 + place for place in range(10)]
        answers.store((number, *range(300, 300 + length)), RouteLogits.split(values))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0 < len(answers) < count
    assert answers.nbytes <= budget
    assert taken <= 1.1 * budget


def test_threads_may_share_a_reader(any_model: RoutingModel) -> None:
    whole = tokens_of(80)
    growing = [whole[:length] for length in range(2, 80, 3)]
    expected = Reader(any_model, 0).read_many(growing)
    reader = Reader(any_model, 200_000)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, growing * 4))
    for answer, wanted in zip(found, expected * 4, strict=True):
        assert relative(flat(answer.logits), flat(wanted.logits)) <= 2e-5
