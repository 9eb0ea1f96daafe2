"""What a Verifier's reply says: accepted, to be revised, or nothing that can be read (docs/method.md, section 7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class VerdictStatus(StrEnum):
    """What was read from a reply. Everything but ``accepted`` sends the run on."""

    ACCEPTED = "accepted"
    REVISED = "revised"
    UNKNOWN = "unknown"
    """The reply does not begin with a verdict."""
    CUT = "cut"
    """The token limit cut the reply, so it is not read at all."""


class VerdictWords(StrEnum):
    """Which beginnings of a reply count as a verdict, in any case."""

    STRICT = "strict"
    """``ACCEPT`` or ``REVISE``, then the end, a space, a newline, a colon, a hyphen or a dash."""
    TOLERANT = "tolerant"
    """Also ``REJECT``, a full stop, comma, semicolon or exclamation mark after it, and emphasis, quotation marks,
    a heading's or a quotation's mark around it. Longer words such as ``ACCEPTABLE`` are still none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a Verifier said; ``diagnosis`` is the text after the verdict, or all of it where there is no verdict."""

    status: VerdictStatus
    diagnosis: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the answer was accepted."""
        return self.status is VerdictStatus.ACCEPTED


_CLOSING = r"""[*_`"'”’»)\]]*"""
_RULES = {
    VerdictWords.STRICT: re.compile(
        r"(ACCEPT|REVISE)(?=\Z|[ \n:–—-]|\r\n)"  # the word, and what has to follow it
        r"[\s:–—-]*",  # what is left out of the diagnosis
        re.IGNORECASE | re.ASCII,
    ),
    VerdictWords.TOLERANT: re.compile(
        r"""[\s*_`"'“‘«(\[#>]*"""
        rf"(ACCEPT|REVISE|REJECT){_CLOSING}(?=\Z|[\s:–—-]|[.,;!](?!\w))"
        rf"[.,;!]*{_CLOSING}\s*(?:[:–—-]+{_CLOSING}\s*)?",
        re.IGNORECASE,
    ),
}


def parse_verdict(text: str, words: VerdictWords, cut: bool = False) -> Verdict:
    """The verdict of a Verifier's whole reply.

    Args:
        text: the reply.
        words: which words count.
        cut: whether the token limit ended the reply; then it is never read as a verdict.
    """
    text = text.strip()
    match = None if cut else _RULES[words].match(text)
    if match is None:
        return Verdict(VerdictStatus.CUT if cut else VerdictStatus.UNKNOWN, text or None)
    status = VerdictStatus.ACCEPTED if match[1].upper() == "ACCEPT" else VerdictStatus.REVISED
    return Verdict(status, text[match.end() :] or None)
