"""A base's tokenizer: text in, token ids out, nothing added."""

from __future__ import annotations

from pathlib import Path

from ..contracts.errors import BaseInvalid


class Tokenizer:
    """Encodes with a Hugging Face ``tokenizer.json``; safe to use from several threads.

    Raises:
        BaseInvalid: the file is not a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        try:
            self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BaseInvalid(f"{path} is not a tokenizer: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of ``text``; no special token is added at either end. Other threads run meanwhile.

        It takes time in proportion to the length of ``text``, whatever is in it: about a second a million characters.
        """
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoding.ids)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that ``encode`` can give."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1
