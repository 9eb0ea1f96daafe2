"""How people really type: dropped punctuation, lower case, typing errors."""

from random import Random


def disturb(text: str, rng: Random) -> str:
    """The text as a hurried person would type it; seven times in ten unchanged."""
    if rng.random() < 0.7:
        return text
    common = rng.choice((_lower, _unpunctuated, _typos))
    return rng.choice((common, common, common, _upper, _spaced))(text, rng)


def _lower(text: str, rng: Random) -> str:
    return text.lower()


def _upper(text: str, rng: Random) -> str:
    return text.upper() if len(text) < 80 else text.lower()


def _unpunctuated(text: str, rng: Random) -> str:
    return text.rstrip("?!. ") or text


def _spaced(text: str, rng: Random) -> str:
    return rng.choice((text + " ", text + "\n", text.replace(" ", "  ", 1), text.rstrip("?.!") + "??"))


def _typos(text: str, rng: Random) -> str:
    for _ in range(1 + len(text) // 60):
        text = _typo(text, rng)
    return text


def _typo(text: str, rng: Random) -> str:
    """Swap two letters, drop one, or double one."""
    letters = [i for i in range(len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not letters:
        return text
    i = rng.choice(letters)
    swapped = text[i + 1] + text[i]
    return text[:i] + rng.choice((swapped, text[i + 1], text[i] * 2 + text[i + 1])) + text[i + 2 :]
