"""The byte-level BPE tokenizer: any text encodes, nothing is added to it."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 3072
MAX_LENGTH = 2048

# A verdict word that were one token would be invisible at the end of a text, where the router reads the
# token before the last. So the merges are learnt without these words.
_UNMERGED = ("REVISE", "REJECT", "Revise", "Reject")


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A BPE of `VOCABULARY` tokens over bytes, digits apart from one another."""
    tokenizer = Tokenizer(models.BPE())
    splitters = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(map(_without_verdicts, texts), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and the small `tokenizer_config.json`."""
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _without_verdicts(text: str) -> str:
    for word in _UNMERGED:
        text = text.replace(word, "")
    return text
