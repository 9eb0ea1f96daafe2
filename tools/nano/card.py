"""The card of `nano`: what it is, what it was trained on and how well it does, from the report of the run itself."""

from typing import Any

_CARD = """\
# nano

The router that `trinity-mlx` carries inside, so that a fresh machine routes without a download. It is a demonstration:
a language model of {parameters:,} parameters in the Qwen3 architecture ({layers} layers, hidden {hidden}, vocabulary
{vocabulary:,}), adapted by singular-value offsets and read by a 10 x {hidden} head, like the real one. It tells the
kind of task ({slots})
and the state of the conversation, and it knows nothing else. No provider stands behind its slots.

## How it was made

`python tools/nano/build.py` trained every part from nothing, with fixed seeds:

1. a byte-level BPE tokenizer on generated text;
2. the base, on {base_examples:,} generated conversations: next tokens, and two throw-away linear probes for slot and
   state (its embedding starts from a bag-of-words classifier of the same text); then frozen, in bfloat16;
3. {offsets} singular-value offsets and the head, by Adam on {router_examples:,} further conversations.

The conversations come from a generator with {phrasings:,} distinct phrasings in {families:,} families, in English and
to a small part in Spanish, French and German. {heldout_families:,} further families, with {heldout_phrasings:,}
phrasings, were held out: no text of theirs, neither task nor reply, was seen in training. The generator was widened
after looking at held-out errors by kind, so the held-out figures are no blind test; the hand-written prompts had no
phrase added for them.

As a language model the base is of no use: its next-token loss stays above 4. The offsets add little here, because the
probes have already put what a route needs into the hidden vector; the table shows how little.

## How well it does

| | slots | roles | both |
| --- | --- | --- | --- |
| {examples:,} held-out conversations | {slots_right} | {roles_right} | {both_right} |
| head alone, without the offsets | {head_slots} | {head_roles} | {head_both} |
| head on an untrained base | {raw_slots} | {raw_roles} | {raw_both} |
| {strangers} hand-written prompts | {stranger_slots} | {stranger_roles} | {stranger_both} |

Mean margin on the held-out conversations: agent {agent_margin:.2f}, role {role_margin:.2f}; one in twenty is below
{low_agent:.2f} and {low_role:.2f}.

| state of the conversation | role | slots | roles |
| --- | --- | --- | --- |
{states}

Built with {versions}. Licence: Apache-2.0, as the rest of the project; no text or weights of others went into it.
"""

_STATE_NAMES = {
    "open": ("open question", "Worker"),
    "plan_needed": ("plan needed", "Thinker"),
    "planned": ("plan given", "Worker"),
    "answered": ("answer to be checked", "Verifier"),
    "check_asked": ("user asks for a check", "Verifier"),
    "refuted_by_verifier": ("refuted by a verifier", "Worker"),
    "refuted_by_user": ("refuted by the user", "Worker"),
}


def card(report: dict[str, Any]) -> str:
    """The card as Markdown, from the `report` of `build`."""
    corpus, training, heldout = report["corpus"], report["training"], report["heldout"]
    return _CARD.format(
        parameters=report["parameters"],
        layers=training["base"]["num_hidden_layers"],
        hidden=training["base"]["hidden_size"],
        vocabulary=training["base"]["vocab_size"],
        slots=", ".join(corpus["slots"]),
        base_examples=training["examples"]["base"],
        router_examples=training["examples"]["router"],
        offsets=report["offsets"]["count"],
        phrasings=corpus["phrasings"]["train"],
        families=corpus["families"]["train"],
        heldout_families=corpus["families"]["heldout"],
        heldout_phrasings=corpus["phrasings"]["heldout"],
        examples=heldout["examples"],
        strangers=report["strangers"]["examples"],
        agent_margin=heldout["agent_margin"]["mean"],
        role_margin=heldout["role_margin"]["mean"],
        low_agent=heldout["agent_margin"]["fifth_percentile"],
        low_role=heldout["role_margin"]["fifth_percentile"],
        states="\n".join(_state_row(name, share) for name, share in heldout["per_state"].items()),
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        **_shares("{}_right", heldout["accuracy"]),
        **_shares("head_{}", report["ablations"]["head_only"]),
        **_shares("raw_{}", report["ablations"]["untrained_base_head_only"]),
        **_shares("stranger_{}", report["strangers"]["accuracy"]),
    )


def _shares(pattern: str, accuracy: dict[str, float]) -> dict[str, str]:
    return {pattern.format(what): f"{accuracy[what]:.1%}" for what in ("slots", "roles", "both")}


def _state_row(state: str, accuracy: dict[str, float]) -> str:
    name, role = _STATE_NAMES[state]
    return f"| {name} | {role} | {accuracy['slots']:.1%} | {accuracy['roles']:.1%} |"
