"""What a loaded router promises its callers, on both backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import trinity_mlx
from trinity_mlx import Message, Role, RouteDecision, Router, Selection, SelectionMode, Transcript, load_router
from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.errors import (
    ArtifactNotFound,
    BaseInvalid,
    BaseMismatch,
    ContextLengthError,
    ProfileUnavailable,
    SelectionError,
    TensorFileInvalid,
    TranscriptError,
    UnknownProfile,
    UsageError,
)
from trinity_mlx.routing.reader import Reader, needed_tokens
from trinity_mlx.rules.choice import choose

from .. import builders
from ..builders import LABELS, PROFILES, relative

PROMPT = "What is 17 + 25? Answer briefly."
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "Are you sure? Überprüfe es 🙂"},
]
BACKENDS_AGREE = 1e-5

texts = st.text(max_size=40)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts)
transcripts = st.lists(messages, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def routers(tiny_folders: dict[str, Path]) -> Iterator[dict[str, Router]]:
    """The tiny router on each backend, in float32."""
    loaded = {name: load_router(**tiny_folders, profile=name, dtype="float32") for name in PROFILES.values()}
    yield loaded
    for router in loaded.values():
        router.close()


@pytest.fixture(params=PROFILES.values())
def profile(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def router(routers: dict[str, Router], profile: str) -> Router:
    routers[profile].forget()
    return routers[profile]


@pytest.fixture(scope="module")
def expected_logits(
    tiny_base: Base, adapted_recipe: builders.PlainRecipe, tiny_head: np.ndarray
) -> Callable[[Any], np.ndarray]:
    """Logits of a transcript by the oracle: its own text, tokenizer, model and product, in float64."""
    tokenizer = Tokenizer.from_file(str(tiny_base.tokenizer))

    def compute(conversation: list[Message]) -> np.ndarray:
        text = "\n".join(f"{message.role}: {message.content}" for message in conversation)
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        return tiny_head.astype(np.float64) @ adapted_recipe.hidden(tokens).astype(np.float64)

    return compute


def flat(decision: RouteDecision) -> tuple[float, ...]:
    return decision.logits.agent + decision.logits.role


def clear(logits: np.ndarray) -> bool:
    """Whether both splits have a leader that rounding cannot overturn."""
    scale = np.abs(logits).max()
    return all(np.diff(np.sort(split)[-2:])[0] > 1e-4 * scale for split in (logits[:-3], logits[-3:]))


# --- decisions --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(conversation=transcripts)
def test_decision_is_the_argmax_of_the_oracles_logits(
    routers: dict[str, Router], expected_logits: Callable[[Any], np.ndarray], conversation: list[Message]
) -> None:
    expected = expected_logits(conversation)
    for router in routers.values():
        decision = router.route(conversation)
        assert relative(flat(decision), expected) <= 2e-5
        if clear(expected):
            assert (decision.slot, decision.role) == (expected[:-3].argmax(), expected[-3:].argmax())


@settings(max_examples=60)
@given(conversation=transcripts)
def test_torch_and_mlx_decide_alike(routers: dict[str, Router], conversation: list[Message]) -> None:
    first, second = (router.route(conversation) for router in routers.values())
    assert relative(flat(first), flat(second)) <= BACKENDS_AGREE
    assert first.transcript_hash == second.transcript_hash
    assert first.token_count == second.token_count
    if clear(np.array(flat(first))):
        assert (first.slot, first.role) == (second.slot, second.role)


def test_decision_carries_what_is_needed_to_check_it(
    router: Router, profile: str, tiny_base: Base, tiny_bundle: Bundle
) -> None:
    decision = router.route(CONVERSATION)
    agent, role = decision.logits.agent, decision.logits.role
    text = "\n".join(f"{message['role']}: {message['content']}" for message in CONVERSATION)
    assert (len(agent), len(role)) == (7, 3)
    assert decision.slot == max(range(7), key=agent.__getitem__)
    assert decision.label == LABELS[decision.slot]
    assert decision.role is Role(max(range(3), key=role.__getitem__))
    assert decision.ranking == tuple(sorted(range(7), key=agent.__getitem__, reverse=True))
    assert decision.margins.agent == sorted(agent)[-1] - sorted(agent)[-2]
    assert decision.margins.role == sorted(role)[-1] - sorted(role)[-2]
    assert decision.token_count == len(Tokenizer.from_file(str(tiny_base.tokenizer)).encode(text).ids)
    assert decision.profile == profile
    assert decision.artifact.name == "tiny"
    assert decision.artifact.base_ref == tiny_base.ref
    assert decision.artifact.adapter_ref == tiny_bundle.adapter.ref
    assert decision.transcript_hash == Transcript.of(CONVERSATION).sha256
    assert decision.timings.load > 0
    assert decision.timings.route > 0
    assert decision.choice.probabilities is None


def test_hashes_repeat_and_tell_transcripts_apart(router: Router) -> None:
    first, second = router.route(PROMPT), router.route(CONVERSATION)
    assert first.route_hash == router.route(PROMPT).route_hash != second.route_hash
    assert first.transcript_hash != second.transcript_hash


def test_a_prompt_is_one_user_message(router: Router) -> None:
    forms = (PROMPT, [{"role": "user", "content": PROMPT}], [Message("user", PROMPT)], Transcript.of(PROMPT))
    decisions = [router.route(form) for form in forms]
    assert len({(decision.transcript_hash, decision.route_hash, flat(decision)) for decision in decisions}) == 1


def test_the_roles_of_messages_matter(router: Router) -> None:
    by_role = {flat(router.route([Message(role, PROMPT)])) for role in ("system", "user", "assistant")}
    assert len(by_role) == 3


def test_an_empty_prompt_still_has_a_transcript(router: Router) -> None:
    assert router.route("").token_count > 0


def test_a_longer_conversation_is_read_from_where_the_last_ended(router: Router) -> None:
    first = router.route(CONVERSATION[:2])
    second = router.route(CONVERSATION)
    assert first.reused_tokens == 0
    assert first.token_count - 3 <= second.reused_tokens < first.token_count
    router.forget()
    assert relative(flat(router.route(CONVERSATION)), flat(second)) <= BACKENDS_AGREE


def test_a_profile_has_a_number_type_that_can_be_overruled(tiny_folders: dict[str, Path], profile: str) -> None:
    exact = load_router(**tiny_folders, profile=profile, dtype="float32").route(CONVERSATION)
    for dtype in ("bfloat16", "float16"):
        short = load_router(**tiny_folders, profile=profile, dtype=dtype)
        assert short.identity.dtype == dtype
        assert 1e-6 < relative(flat(short.route(CONVERSATION)), flat(exact)) < 0.1


def test_auto_finds_a_profile_that_runs(tiny_folders: dict[str, Path]) -> None:
    with load_router(**tiny_folders) as router:
        assert router.route(PROMPT).profile in ("mlx", "cuda", "mps", "cpu")


# --- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [[3], [0, 6], range(1, 5), {2, 4, 5}], ids=str)
def test_only_allowed_slots_are_chosen_and_ranked(router: Router, allowed: Any) -> None:
    free, bound = router.route(PROMPT), router.route(PROMPT, allow_slots=allowed)
    assert bound.ranking == tuple(slot for slot in free.ranking if slot in allowed)
    assert bound.slot == bound.ranking[0]
    assert bound.role == free.role
    assert bound.logits == free.logits
    assert (bound.margins.agent is None) == (len(bound.ranking) == 1)


@pytest.mark.parametrize(("allowed", "told"), [([], "no slot is allowed"), ([7], "no slot 7"), ([-1], "no slot -1")])
def test_slots_that_cannot_be_allowed_are_refused(router: Router, allowed: list[int], told: str) -> None:
    with pytest.raises(SelectionError, match=told):
        router.route(PROMPT, allow_slots=allowed)


def test_sampling_can_be_replayed_from_the_recorded_seed(router: Router) -> None:
    hot = Selection(SelectionMode.SAMPLE, SelectionMode.SAMPLE, temperature=5.0)
    for prompt in map(str, range(30)):
        drawn = router.route(prompt, selection=hot)
        assert drawn.choice.selection.seed is not None
        again = router.route(prompt, selection=drawn.choice.selection)
        assert (again.choice, again.route_hash) == (drawn.choice, drawn.route_hash)


def test_sampling_follows_the_softmax(router: Router) -> None:
    drawn = [
        router.route(PROMPT, selection=Selection(SelectionMode.SAMPLE, SelectionMode.SAMPLE, 2.0, seed))
        for seed in range(1500)
    ]
    agent = np.array(drawn[0].logits.agent) / 2.0
    expected = np.exp(agent - agent.max()) / np.exp(agent - agent.max()).sum()
    counted = np.bincount([decision.slot for decision in drawn], minlength=7) / len(drawn)
    assert drawn[0].choice.probabilities is not None
    assert np.allclose(drawn[0].choice.probabilities.agent, expected)
    assert np.abs(counted - expected).max() < 0.05


def test_one_seed_gives_each_transcript_a_draw_of_its_own(router: Router) -> None:
    flat_softmax = Selection(SelectionMode.SAMPLE, SelectionMode.SAMPLE, temperature=1e6, seed=0)
    decisions = router.route_many(map(str, range(100)), selection=flat_softmax)
    assert {decision.slot for decision in decisions} == set(range(7))
    assert {decision.role for decision in decisions} == set(Role)


def test_softmax_chooses_as_argmax_does_and_tells_probabilities(router: Router) -> None:
    decision = router.route(PROMPT, selection=Selection.parse("softmax"))
    assert (decision.slot, decision.role) == (router.route(PROMPT).slot, router.route(PROMPT).role)
    assert decision.choice.probabilities is not None
    assert math.isclose(sum(decision.choice.probabilities.agent), 1.0)
    assert math.isclose(sum(decision.choice.probabilities.role), 1.0)


# --- many transcripts, many threads -----------------------------------------------------------------------------------


@settings(max_examples=20)
@given(batch=st.lists(transcripts, max_size=8))
def test_many_are_decided_in_order_as_one_by_one(routers: dict[str, Router], batch: list[list[Message]]) -> None:
    for router in routers.values():
        router.forget()
        together = router.route_many(batch)
        router.forget()
        alone = [router.route(conversation) for conversation in batch]
        assert [decision.transcript_hash for decision in together] == [d.transcript_hash for d in alone]
        for found, expected in zip(together, alone, strict=True):
            assert relative(flat(found), flat(expected)) <= BACKENDS_AGREE


def test_a_bad_transcript_among_many_has_its_error_in_its_place(router: Router) -> None:
    batch: list[Any] = [PROMPT, [], CONVERSATION, [{"role": "robot", "content": "x"}], "x" * 5000, b"bytes"]
    found = router.route_many(batch, errors="return")
    kinds = [RouteDecision, TranscriptError, RouteDecision, TranscriptError, ContextLengthError, TranscriptError]
    assert [type(item) for item in found] == kinds
    assert [found[0].transcript_hash, found[2].transcript_hash] == [
        Transcript.of(PROMPT).sha256,
        Transcript.of(CONVERSATION).sha256,
    ]


def test_a_bad_transcript_among_many_raises_by_default(router: Router) -> None:
    with pytest.raises(TranscriptError, match="empty"):
        router.route_many([PROMPT, []])


def test_many_may_be_none_or_all_bad(router: Router) -> None:
    assert router.route_many([]) == []
    assert [type(item) for item in router.route_many([[], []], errors="return")] == [TranscriptError] * 2


def test_many_share_selection_and_allowed_slots(router: Router) -> None:
    decisions = router.route_many([PROMPT, CONVERSATION], selection=Selection.parse("softmax"), allow_slots=[2, 5])
    assert all(set(decision.ranking) == {2, 5} for decision in decisions)
    assert all(decision.choice.selection.agent is SelectionMode.SOFTMAX for decision in decisions)


def test_threads_get_what_one_caller_gets(router: Router) -> None:
    prompts = [f"Question {number}: what follows from {number * 7}?" for number in range(50)]
    alone = [flat(router.route(prompt)) for prompt in prompts]
    router.forget()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(router.route, prompts * 4))
    assert all(
        relative(flat(decision), wanted) <= BACKENDS_AGREE for decision, wanted in zip(found, alone * 4, strict=True)
    )
    assert [decision.slot for decision in found] == [int(np.argmax(wanted[:7])) for wanted in alone * 4]
    assert len({(decision.transcript_hash, decision.route_hash) for decision in found}) == len(prompts)


# --- life of a router -------------------------------------------------------------------------------------------------


def test_a_router_is_a_context_manager_and_stays_closed(tiny_folders: dict[str, Path], profile: str) -> None:
    with load_router(**tiny_folders, profile=profile) as router:
        assert router.route(PROMPT).label in LABELS
    uses: list[Callable[[], object]] = [
        lambda: router.route(PROMPT),
        lambda: router.route_many([PROMPT]),
        router.forget,
    ]
    for use in uses:
        with pytest.raises(UsageError, match="closed"):
            use()
    router.close()


def test_an_error_inside_the_context_passes_through(tiny_folders: dict[str, Path]) -> None:
    with pytest.raises(ZeroDivisionError), load_router(**tiny_folders, profile="cpu") as router:
        1 / 0  # noqa: B018
    with pytest.raises(UsageError, match="closed"):
        router.route(PROMPT)


def test_the_package_offers_what_it_names() -> None:
    assert trinity_mlx.load_router is load_router
    assert trinity_mlx.Router is Router
    assert all(hasattr(trinity_mlx, name) for name in trinity_mlx.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        trinity_mlx.nothing_such  # noqa: B018


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ([], "at least one message"),
        ([{"role": "robot", "content": "x"}], "message 0: unknown role 'robot'"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": 5}], "message 1: .* is int, not text"),
        ([{"role": "user", "content": None}], "NoneType"),
        ([{"role": "user"}], "message 0: it has no content"),
        (["x"], "message 0 is str"),
        ({"role": "user", "content": "x"}, "not dict"),
        (b"x", "not bytes"),
        (5, "not int"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_is_no_transcript_is_refused(router: Router, source: Any, told: str) -> None:
    with pytest.raises(TranscriptError, match=told):
        router.route(source)


def test_a_transcript_beyond_the_context_is_refused_with_both_numbers(router: Router, tiny_base: Base) -> None:
    limit = tiny_base.config.max_positions
    tokenizer = Tokenizer.from_file(str(tiny_base.tokenizer))
    text = "§" * 1000
    count = len(tokenizer.encode(f"user: {text}").ids)
    with pytest.raises(ContextLengthError, match=rf"{count} tokens.*at most {limit}"):
        router.route(text)


def test_a_transcript_that_fills_the_context_is_read(router: Router, tiny_base: Base) -> None:
    limit = tiny_base.config.max_positions
    tokenizer = Tokenizer.from_file(str(tiny_base.tokenizer))
    spare = limit - len(tokenizer.encode("user: ").ids)
    text = "#" * spare
    assert router.route(text).token_count == limit
    with pytest.raises(ContextLengthError, match=rf"{limit + 1} tokens"):
        router.route(text + "#")


def test_a_bundle_for_another_base_is_refused(tmp_path: Path, tiny_bundle: Bundle, profile: str) -> None:
    other = builders.make_base(tmp_path / "other", seed=9)
    with pytest.raises(BaseMismatch, match=r"tiny.*test/tiny"):
        load_router(tiny_bundle.folder, other.folder, profile)


def test_a_head_of_another_width_is_refused(tmp_path: Path, tiny_bundle: Bundle, profile: str) -> None:
    other = builders.make_base(tmp_path / "other", hidden_size=32)
    with pytest.raises(TensorFileInvalid, match=r"router_head.safetensors .*\[10, 64\].*\[10, 32\]"):
        load_router(tiny_bundle.folder, other.folder, profile)


def test_a_tokenizer_with_more_ids_than_the_base_embeds_is_refused(tmp_path: Path, tiny_head: np.ndarray) -> None:
    base = builders.make_base(tmp_path / "base", vocab_size=300)
    builders.train_tokenizer(310).save(str(base.tokenizer))
    base = open_base(base.folder)
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, tiny_head)
    with pytest.raises(BaseInvalid, match=r"tokenizer.json has ids up to 309.*embeds 300"):
        load_router(bundle.folder, base.folder, "cpu")


def test_truncation_and_padding_in_a_tokenizer_file_are_not_carried_out(tmp_path: Path, tiny_head: np.ndarray) -> None:
    base = builders.make_base(tmp_path / "base")
    plain = Tokenizer.from_file(str(base.tokenizer))
    changed = Tokenizer.from_file(str(base.tokenizer))
    changed.enable_truncation(8)
    changed.enable_padding(length=64)
    changed.save(str(base.tokenizer))
    base = open_base(base.folder)
    bundle = builders.write_bundle(tmp_path / "bundle", base, {}, tiny_head)
    with load_router(bundle.folder, base.folder, "cpu") as router:
        assert router.route(PROMPT).token_count == len(plain.encode(f"user: {PROMPT}").ids)


def test_an_unknown_profile_is_refused_with_those_there_are(tiny_folders: dict[str, Path]) -> None:
    with pytest.raises(UnknownProfile, match=r"'abacus'.*auto.*cpu.*mlx"):
        load_router(**tiny_folders, profile="abacus")


def test_a_profile_that_cannot_run_here_says_why(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    text = 'summary = "s"\nbackend = "torch"\ndevice = "abacus"\ndtype = "float32"\n'
    (tmp_path / "profiles" / "mine.toml").write_text(text)
    with pytest.raises(ProfileUnavailable, match=r"'mine'.*no abacus device"):
        load_router(**tiny_folders, profile="mine", config_dir=tmp_path)


@pytest.mark.parametrize("artifact", ["nothing-such", "missing/folder"])
def test_an_unknown_artifact_is_refused(artifact: str) -> None:
    with pytest.raises(ArtifactNotFound, match=artifact):
        load_router(artifact, profile="cpu")


def test_a_missing_base_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="missing"):
        load_router(tiny_bundle.folder, tmp_path / "missing", "cpu")


def test_one_prompt_is_not_taken_for_many(router: Router) -> None:
    with pytest.raises(UsageError):
        router.route_many(PROMPT)


# --- the embedded artifact --------------------------------------------------------------------------------------------


def test_the_embedded_artifact_routes_on_both_backends_alike() -> None:
    decisions = [builders.load_nano(name, dtype="float32").route(PROMPT) for name in PROFILES.values()]
    assert relative(*map(flat, decisions)) <= BACKENDS_AGREE
    assert len({(decision.slot, decision.role, decision.label) for decision in decisions}) == 1


@pytest.mark.parametrize("backend_name", builders.BACKENDS)
def test_a_bundle_decides_as_the_plain_recipe_does(tiny_base: Base, tiny_bundle: Bundle, backend_name: str) -> None:
    compare_with_the_plain_recipe(backend_name, tiny_bundle, tiny_base, count=15)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("backend_name", builders.BACKENDS)
def test_the_embedded_artifact_decides_as_the_plain_recipe_does(backend_name: str) -> None:
    builders.skip_without_nano()
    bundle = find_bundle("nano")
    base = open_base(bundle.base_folder or bundle.base_id)
    compare_with_the_plain_recipe(backend_name, bundle, base, count=1000)


def compare_with_the_plain_recipe(backend_name: str, bundle: Bundle, base: Base, count: int) -> None:
    """Hidden vectors to 1e-5 and the very same choices, on ``count`` transcripts of 1 to 400 tokens."""
    oracle = builders.BundleOracle(bundle, base)
    model = builders.cpu_model(backend_name, base, bundle)
    sequences = builders.conversation_tokens(base.tokenizer, count, longest=400)
    assert {len(tokens) for tokens in sequences} >= {1, (count - 1) * 400 // count + 1}
    answers = Reader(model, cache_bytes=0).read_many(sequences)
    for tokens, answer in zip(sequences, answers, strict=True):
        expected = oracle.hidden(tokens)
        assert relative(builders.hidden(model, *builders.fresh(needed_tokens(tokens)))[0], expected) <= 1e-5
        choice = choose(answer.logits)
        assert (choice.slot, choice.role) == oracle.choice(expected)
