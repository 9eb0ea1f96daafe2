"""What counts as a secret, and how it is taken out of texts and values before anything is written."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import quote, quote_plus

MARK = "[redacted]"
SHORTEST_INSIDE = 4
"""Secrets of fewer characters are taken out only where they are a whole value: elsewhere they would be mere letters."""
_SHORTEST_FOUND = 8
_WINDOW = 1 << 18
"""Characters of a long text that are searched at once."""
_BEYOND = 1 << 16
"""Characters after a window that a match may look at before it counts; no shape needs more to be told."""

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:(?:api|access|private|secret|signing|subscription)_?key|authori[sz]ation|bearer|cookie|credentials?"
    r"|passwords?|passwd|passphrase|secrets?|token|jwt|apikeys|api_keys)(?:_|$)"
)
_HARMLESS_ENDING = re.compile(r"_(?:refs?|ids?|counts?|generation|fence|limits?|usage|types?|names?|env|sha256)$")

_VALUE = r"([^\s\"'`,;(){}\[\]<>&]+)"
_GAP = r"(?>(?:\\?[\"']?[ \t]*[:=]|[\"'][ \t]*,)[ \t]*(?:b(?=[\"']))?\\?[\"']?)"
_KEYS = (
    r"(?i:(?<![a-z0-9])(?:api[_-]?key|access[_-]?key|(?:access|refresh|id|auth)[_-]?token|client[_-]?secret|secret"
    r"|passw(?:or)?d)|(?<![a-z0-9_-])token)"
)
_SHAPES = tuple(
    (anchors, re.compile(pattern))
    for anchors, pattern in (
        # Authorization: Bearer TOKEN, 'x-api-key': 'TOKEN', (b'authorization', b'Basic TOKEN')
        (
            ("authorization", "api-key", "auth-token"),
            r"(?i:(?:proxy-)?authorization|x-api-key|api-key|x-goog-api-key|x-auth-token)"
            + _GAP
            + r"(?:(?i:bearer|basic|token|apikey|negotiate)[ \t]+)?+"
            + _VALUE,
        ),
        # Bearer TOKEN in a sentence: a token has a digit or an underscore, or is longer than words are
        (("bearer",), r"(?i:\bbearer)\s+((?=[A-Za-z.~+/=-]*[0-9_])[\w.~+/=-]{8,}|[\w.~+/=-]{24,})"),
        (
            ("basic",),
            r"\bBasic\s+((?=[A-Za-z+/]{0,4096}[0-9=]|(?:[A-Za-z+/]{0,4096}?[a-z][A-Z]){2})[A-Za-z0-9+/]{8,}={0,2})",
        ),
        # api_key=VALUE in a query or a setting; "api_key": "VALUE" in JSON or a printed dictionary
        (("key", "token", "secret", "passw"), _KEYS + r"=[\"']?" + _VALUE),
        (("key", "token", "secret", "passw"), _KEYS + r"\\?[\"']\s*:\s*\\?[\"']([^\"'\\\[\]]+)"),
        (("://",), r"://[^/\s:@]{0,4096}:([^/\s@]{1,4096})@"),
        (
            ("sk-", "pk-", "rk-"),
            r"\b((?:sk|pk|rk)-(?:(?:ant|proj|or|svcacct|admin)-[\w*-]{8,}|[A-Za-z0-9]{16,}"
            r"|(?=[\w*-]{0,64}[0-9])[\w*-]{12,}))",
        ),
        (("aiza",), r"\b(AIza[\w-]{20,})"),
        (
            ("gsk_", "hf_", "gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "r8_"),
            r"\b((?:gsk|hf|gh[opsur]|github_pat|r8)_[A-Za-z0-9_]{16,})",
        ),
        (("xai-", "pplx-", "nvapi-", "fw-"), r"\b((?:xai|pplx|nvapi|fw)-[\w-]{20,})"),
        (("xox",), r"\b(xox[a-z]-[A-Za-z0-9-]{8,})"),
        (("akia", "asia"), r"\b((?:AKIA|ASIA)[A-Z0-9]{12,})"),
        (("eyj",), r"(?<![\w-])(eyJ[\w-]{8,2000}+\.[\w-]{8,50000}+\.[\w-]*)"),
        (("-----begin",), r"(-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?)"),
    )
)
"""What secrets look like. A text is searched for a shape only where it holds one of the shape's anchors, case folded:
most texts of a run hold none, and an expression costs a hundred times as much as the look for its anchor."""
_ANCHORS = tuple(dict.fromkeys(chain.from_iterable(anchors for anchors, _ in _SHAPES)))


class Redactor:
    """Takes secrets out: those that it is told, in every usual spelling, and what looks like one.

    A secret that was named is found as it is, percent-encoded, escaped as in JSON and in base64. Beside those go the
    token of an authorisation header, well-known shapes of keys, and whatever a mapping holds under a secret's name
    (``is_secret_name``), there and wherever else in the same value. Blank secrets are no secrets. ``mark`` stands in
    their place; it is ``MARK`` unless a secret could arise from it.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._whole = frozenset(secret for secret in secrets if secret.strip())
        self._forms = frozenset(_forms(self._whole))
        self.mark = _mark_for(self._forms)

    def text(self, text: str) -> str:
        """``text`` without secrets; unchanged where it holds none."""
        return self._text(text, self._forms)

    def is_clean(self, value: Any) -> bool:
        """Whether one quick look over all of ``value`` finds nothing that ``value`` would search more closely.

        True means that no secret is in there; False says nothing yet.
        """
        texts: list[str] = []
        names: list[str] = []
        _gather(value, texts, names)
        everything = "\0".join((*texts, *names))
        return not (
            len(everything) > _WINDOW
            or any(map(is_secret_name, names))
            or not self._whole.isdisjoint((*texts, *names))
            or any(map(everything.__contains__, self._forms))
            or any(map(everything.casefold().__contains__, _ANCHORS))
        )

    def value(self, value: Any) -> Any:
        """``value`` without secrets, for JSON: mappings as dictionaries, other collections as lists, the rest as text.

        None, truth values and numbers stay, unless a number is a secret.
        """
        named = [secret for secret in _under_secret_names(value) if not _clashes(self.mark, secret)]
        return self._value(value, self._forms.union(_forms(named)))

    def _value(self, value: Any, forms: Collection[str]) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return self.mark if str(value) in self._whole else value
        if isinstance(value, Mapping):
            names = [(str(key), self._text(str(key), forms)) for key in value]
            return {
                shown: self._item(any(map(is_secret_name, (name, shown))), item, forms)
                for (name, shown), item in zip(names, value.values(), strict=True)
            }
        if isinstance(value, Collection) and not isinstance(value, str | bytes):
            return [self._value(item, forms) for item in value]
        return self._text(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value), forms)

    def _item(self, is_secret: bool, item: Any, forms: Collection[str]) -> Any:
        if is_secret and not (item is None or isinstance(item, bool) or item == ""):
            return self.mark
        return self._value(item, forms)

    def _text(self, text: str, forms: Collection[str]) -> str:
        if text in self._whole:
            return self.mark
        while (cleaned := _replace(text, _spans(text, forms), self.mark)) != text:
            text = cleaned  # what was taken out may have hidden the beginning of something else
        return text


@lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether what stands under ``name`` is a secret: ``api_key``, ``X-Api-Key``, ``openaiApiKey``, ``token``, ...

    Names of references and counts are none: ``secret_ref``, ``token_id``, ``token_count``, ``input_tokens``.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    return bool(_SECRET_NAME.search(words)) and not _HARMLESS_ENDING.search(words)


def _forms(secrets: Iterable[str]) -> Iterator[str]:
    """Every spelling under which the secrets are looked for inside a text."""
    for secret in secrets:
        if len(secret.strip()) >= SHORTEST_INSIDE:
            yield from (secret, secret.strip())
            yield from (spelling for spelling in _spellings(secret.strip()) if len(spelling) >= SHORTEST_INSIDE)


def _spellings(secret: str) -> Iterator[str]:
    for encoded in (quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")):
        yield encoded
        yield re.sub("%..", lambda match: match[0].lower(), encoded)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    for credentials in (secret, f":{secret}", f"{secret}:"):
        data = credentials.encode("utf-8", "replace")
        yield b64encode(data).decode().rstrip("=")
        yield urlsafe_b64encode(data).decode().rstrip("=")


def _clashes(mark: str, secret: str) -> bool:
    """Whether ``mark`` could complete ``secret`` out of harmless text beside it."""
    return secret in mark or any(end in secret for end in (mark[0], mark[-1]))


def _mark_for(forms: Collection[str]) -> str:
    marks = chain((MARK,), map(chr, range(0x2588, 0xD800)))
    return next(mark for mark in marks if not any(_clashes(mark, form) for form in forms))


def _under_secret_names(value: Any, secret: bool = False) -> Iterator[str]:
    """Texts that a mapping holds under a secret's name, and the last word of each: a token follows its scheme."""
    if isinstance(value, str):
        parts = {value, *value.split()[-1:]} if secret else ()
        yield from (part for part in parts if len(part) >= _SHORTEST_FOUND)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _under_secret_names(item, secret or is_secret_name(str(key)))
    elif isinstance(value, Collection) and not isinstance(value, bytes):
        for item in value:
            yield from _under_secret_names(item, secret)


def _gather(value: Any, texts: list[str], names: list[str]) -> None:
    """Every text in ``value``, numbers among them, and the names that its mappings hold them under."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, Mapping):
        names += map(str, value)
        for item in value.values():
            _gather(item, texts, names)
    elif isinstance(value, Collection) and not isinstance(value, bytes):
        for item in value:
            _gather(item, texts, names)
    else:
        texts.append(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _spans(text: str, forms: Collection[str]) -> list[tuple[int, int]]:
    """Where secrets stand: beginnings and ends, in order, and perhaps overlapping.

    A long text is searched window by window, so that no single search keeps other threads waiting.
    """
    spans: list[tuple[int, int]] = []
    searched = [0] * len(_SHAPES)
    for start in range(0, max(1, len(text)), _WINDOW):
        folded = text[start : start + _WINDOW + _BEYOND].casefold()
        for number, (anchors, pattern) in enumerate(_SHAPES):
            if any(anchor in folded for anchor in anchors):
                matches = list(_matches(text, pattern, max(start, searched[number]), start + _WINDOW))
                searched[number] = matches[-1].end() if matches else searched[number]
                spans += [match.span(1) for match in matches]
        for form in forms:
            spans += _places(text, form, start, start + _WINDOW)
    return sorted(spans)


def _matches(text: str, pattern: re.Pattern[str], start: int, end: int) -> Iterator[re.Match[str]]:
    """Matches that begin from ``start`` up to ``end``; each as far as it goes."""
    beyond = end + _BEYOND
    for match in pattern.finditer(text, start, beyond):
        if match.start() >= end:
            return
        is_cut = match.end() >= beyond
        yield (pattern.match(text, match.start()) or match) if is_cut else match


def _places(text: str, form: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Every place of ``form`` that begins from ``start`` up to ``end``."""
    place = text.find(form, start, end + len(form) - 1)
    while place >= 0:
        yield place, place + len(form)
        place = text.find(form, place + 1, end + len(form) - 1)


def _replace(text: str, spans: Iterable[tuple[int, int]], mark: str) -> str:
    """``text`` with one ``mark`` for each stretch that ``spans`` cover without a gap."""
    pieces: list[str] = []
    covered = 0
    for start, end in spans:
        if start > covered or not pieces:
            pieces += (text[covered:start], mark)
        covered = max(covered, end)
    return "".join((*pieces, text[covered:]))
