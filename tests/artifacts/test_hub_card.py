"""The published card, read by the Hub's own library: its fields, its model index, its text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard, metadata_load
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.artifacts.hub_card import CARD, TRAINING_RECORD, card_of, signed
from trinity_mlx.contracts.artifact import Bundle


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    return replace(open_bundle(folder), base_id="Qwen/Qwen3-0.6B", name="mine")


def scored(bundle: Bundle, mean: object) -> Bundle:
    (bundle.folder / TRAINING_RECORD).write_text(json.dumps({"score": {"mean": mean}}))
    return bundle


def test_the_hubs_own_reader_finds_every_field(bundle: Bundle) -> None:
    card = ModelCard(card_of(scored(bundle, 0.75)))
    assert (card.data.base_model, card.data.library_name) == ("Qwen/Qwen3-0.6B", "trinity-mlx")
    assert card.data.metrics == ["score"]
    assert card.data.tags == ["trinity-mlx", "llm-routing", "router", "adapter"]
    assert card.data.model_name == "mine"
    (result,) = card.data.eval_results
    assert isinstance(result, EvalResult)
    assert (result.task_type, result.metric_type, result.metric_value) == ("text-classification", "score", 0.75)
    assert card.text.lstrip().startswith("# mine")


def test_what_was_read_is_written_again_with_the_same_meaning(bundle: Bundle, tmp_path: Path) -> None:
    text = card_of(scored(bundle, 0.75))
    ModelCard(text).save(tmp_path / CARD)
    assert ModelCard.load(tmp_path / CARD).data.to_dict() == ModelCard(text).data.to_dict()
    assert metadata_load(tmp_path / CARD) == ModelCard(text).data.to_dict()


@pytest.mark.parametrize("mean", [None, "0.75", True, float("nan"), 1])
def test_nothing_is_claimed_that_was_not_measured(bundle: Bundle, mean: object) -> None:
    card = ModelCard(card_of(scored(bundle, mean)))
    assert card.data.eval_results is None
    assert card.data.metrics == []


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_name_leaves_fields_that_can_be_read(tiny_bundle: Bundle, name: str) -> None:
    index = tiny_bundle.folder.parent / "scored"
    shutil.copytree(tiny_bundle.folder, index, dirs_exist_ok=True)
    named = replace(tiny_bundle, folder=index, name=name, base_id=name)
    assert ModelCard(card_of(scored(named, 0.5))).data.eval_results[0].metric_value == 0.5


@pytest.mark.parametrize(
    "own",
    [
        "---\nlicense: mit\n---\n# Mine\n",
        "\n---\r\nlicense: mit\r\n---\r\n# Mine\r\n",
        "\ufeff---\nlicense: mit\n---\n# Mine\n",
    ],
)
def test_a_card_with_fields_of_its_own_keeps_them(bundle: Bundle, own: str) -> None:
    (bundle.folder / CARD).write_bytes(own.encode())
    card = ModelCard(signed(card_of(bundle), "Ada", "2026-11-21"))
    assert card.data.to_dict() == {"license": "mit"}
    assert "Signed off by Ada" in card.text


@pytest.mark.parametrize(
    "own", ["---\n# Under a rule\n", "----\n# Under a rule\n", "# Mine\n\n---\nafter a rule\n---\n"]
)
def test_a_rule_is_not_taken_for_fields(bundle: Bundle, own: str) -> None:
    (bundle.folder / CARD).write_text(own)
    card = ModelCard(card_of(bundle))
    assert card.data.library_name == "trinity-mlx"
    assert card.text.strip() == own.strip()
