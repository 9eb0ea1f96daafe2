"""Secrets are taken out wherever they stand, and nothing else is."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.events import Event
from trinity_mlx.tracing.redaction import MARK, Redactor, is_secret_name

ALPHABET = 'ab[]redct%█▉ "\\\né:='
SECRET = 'hunter2/with [brackets] & ümläut"s'
registered = st.lists(st.text(ALPHABET, min_size=4, max_size=9).filter(lambda text: len(text.strip()) >= 4), max_size=4)


@st.composite
def texts(draw: st.DrawFn, secrets: list[str]) -> str:
    """Pieces of secrets, whole ones that overlap, words that introduce one, and anything else."""
    pieces = [
        st.text(ALPHABET, max_size=8),
        st.sampled_from(["Bearer ", "Authorization: ", "token=", "sk-a1b2c3d4e5f6g7"]),
    ]
    if secrets:
        cut = st.tuples(st.sampled_from(secrets), st.integers(0, 9), st.integers(0, 9))
        pieces += [st.sampled_from(secrets), cut.map(lambda part: part[0][part[1] : part[2]])]
    return "".join(draw(st.lists(st.one_of(pieces), max_size=8)))


def nested(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    names = leaves | st.sampled_from(["api_key", "details", "secret_ref"])
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | leaves | leaves.map(str.encode),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3) | st.tuples(inner, inner),
        max_leaves=8,
    )


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)


@given(st.data())
def test_no_registered_secret_is_left_in_a_text_and_twice_is_once(data: st.DataObject) -> None:
    secrets = data.draw(registered)
    redactor = Redactor(secrets)
    cleaned = redactor.text(data.draw(texts(secrets)))
    assert [secret for secret in secrets if secret in cleaned] == []
    assert redactor.text(cleaned) == cleaned


@given(st.data())
def test_no_registered_secret_is_left_in_a_value_and_twice_is_once(data: st.DataObject) -> None:
    secrets = data.draw(registered)
    redactor = Redactor(secrets)
    cleaned = redactor.value(data.draw(nested(texts(secrets))))
    assert [secret for secret in secrets for text in strings_of(cleaned) if secret in text] == []
    assert strings_equal(redactor.value(cleaned), cleaned)


@given(st.data())
def test_what_a_quick_look_finds_clean_stays_as_it_is(data: st.DataObject) -> None:
    secrets = data.draw(registered | st.lists(st.sampled_from(["a", "17", "[]"])))
    redactor = Redactor(secrets)
    value = data.draw(nested(texts(secrets)))
    if redactor.is_clean(value):
        assert strings_equal(redactor.value(value), Redactor().value(value))
        assert list(strings_of(redactor.value(value))) == list(strings_of(json_ready(value)))


def json_ready(value: Any) -> Any:
    """``value`` as JSON holds it, with nothing taken out."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    return [json_ready(item) for item in value] if isinstance(value, list | tuple) else value


def test_a_name_that_becomes_a_secrets_name_is_one() -> None:
    redactor = Redactor([":::a"])
    assert redactor.value({":::atoken=": []}) == {"[redacted]token=": "[redacted]"}


def strings_equal(one: Any, other: Any) -> bool:
    """Equality for which NaN is NaN."""
    return repr(one) == repr(other)


@given(st.text(), st.lists(st.text(min_size=4).filter(str.strip)))
def test_a_text_without_secrets_stays(text: str, secrets: list[str]) -> None:
    words = " ".join(character for character in text if character.isalpha() or character.isspace())
    assert Redactor([f"\U0010fffd{secret}" for secret in secrets]).text(words) == words


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.just("words"), lambda inner: st.lists(inner)))
def test_a_value_without_secrets_stays(value: Any) -> None:
    assert Redactor(["hunter2x"]).value(value) == value


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(f":{SECRET}".encode()).decode(),
        base64.b64encode(f"{SECRET}:".encode()).decode(),
        f"{SECRET}{SECRET}",
    ],
)
def test_a_secret_is_found_in_every_spelling(spelled: str) -> None:
    redactor = Redactor([SECRET + "\n"])
    cleaned = redactor.text(f"refused: {spelled}, try again")
    assert cleaned.startswith(f"refused: {redactor.mark}" if spelled[0] != '"' else f'refused: "{redactor.mark}')
    assert cleaned.endswith(", try again")
    assert len(cleaned) < 45


def test_secrets_that_overlap_go_whole() -> None:
    assert Redactor(["abcdef", "defghi"]).text("x abcdefghi y") == f"x {MARK} y"
    assert Redactor(["abcdef", "bcde"]).text("x abcdef y") == f"x {MARK} y"
    assert Redactor(["abab"]).text("x ababab y") == f"x {MARK} y"


def test_a_secret_that_the_mark_could_complete_gets_another_mark() -> None:
    for secret in ("dact", "x[re", MARK, "d]yz"):
        redactor = Redactor([secret, "qqqq"])
        assert redactor.mark != MARK
        assert secret not in redactor.text("x" + "qqqq" + "yz" + secret)


@pytest.mark.parametrize("secret", ["", "  ", "\n"])
def test_a_blank_secret_is_none(secret: str) -> None:
    assert Redactor([secret]).text("some words \n here") == "some words \n here"


def test_a_short_secret_goes_only_as_a_whole_value() -> None:
    redactor = Redactor(["abc"])
    assert redactor.value(["abc", "abc is the alphabet"]) == [MARK, "abc is the alphabet"]


def test_a_number_that_is_a_secret_goes() -> None:
    assert Redactor(["12345678"]).value([12345678, 123456789]) == [MARK, 123456789]
    assert not Redactor(["17"]).is_clean({"n": 17})


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Authorization: Bearer abc", "Authorization: Bearer [redacted]"),
        ("authorization:bearer abc", "authorization:bearer [redacted]"),
        ("AUTHORIZATION = Basic dXNlcjpwYXNz, next", "AUTHORIZATION = Basic [redacted], next"),
        ("Authorization: rawtoken", "Authorization: [redacted]"),
        ("{'x-api-key': 'abc', 'n': 1}", "{'x-api-key': '[redacted]', 'n': 1}"),
        ("[(b'Authorization', b'Bearer abc')]", "[(b'Authorization', b'Bearer [redacted]')]"),
        ('"{\\"api_key\\": \\"abc\\"}"', '"{\\"api_key\\": \\"[redacted]\\"}"'),
        ('{"client_secret": "a b c", "n": 1}', '{"client_secret": "[redacted]", "n": 1}'),
        ("got bearer abcdef12 from it", "got bearer [redacted] from it"),
        ("Bearer\n abcdef12", "Bearer\n [redacted]"),
        ("sent Basic dXNlcjpwYXNz.", "sent Basic [redacted]."),
        ("https://me:pa55@host/v1?api_key=abc&n=1", "https://me:[redacted]@host/v1?api_key=[redacted]&n=1"),
        ("OPENAI_API_KEY=abc python", "OPENAI_API_KEY=[redacted] python"),
        ("Incorrect API key provided: sk-abc1*****wxyz.", "Incorrect API key provided: [redacted]."),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- end", "[redacted] end"),
    ],
)  # fmt: skip
def test_tokens_and_headers_go_and_their_surroundings_stay(text: str, cleaned: str) -> None:
    assert Redactor().text(text) == cleaned
    assert not Redactor().is_clean(text)


@pytest.mark.parametrize(
    "key",
    [
        "sk-" + "abcdefghijklmnopqrst",
        "sk-proj-" + "Ab1_cdefgh-ijkl",
        "sk-ant-" + "api03-abcdefghij",
        "sk-or-" + "v1-0123456789ab",
        "AIza" + "SyA-1234567890abcdefghijklmnopqrstu",
        "gsk_" + "abcdefghijklmnopqrstuvwx",
        "hf_" + "abcdefghijklmnopqrstuvwx",
        "ghp_" + "abcdefghijklmnopqrstuvwx",
        "github_pat_" + "11ABCDEFG0abcdefghij",
        "xai-" + "abcdefghijklmnopqrstuvwx",
        "xoxb-" + "123456789012-abcdef",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    ],
)
def test_well_known_keys_go(key: str) -> None:
    assert Redactor().text(f"the word ({key}) is refused") == f"the word ({MARK}) is refused"
    assert not Redactor().is_clean(f"the word ({key}) is refused")


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of this letter is a friend",
        "Bearer authentication is required",
        "a bearer token was expected, authorization failed",
        "a basic understanding of Basic JavaScript",
        "scikit-learn, sk-learn-compatible estimators",
        "input_tokens: 5, max_tokens=100, token count: 7",
        "The password: it has to be longer. The secret: practice",
        "https://example.com:8080/v1 and a@b.c",
        "desk-0123456789abcdefgh, task-force",
    ],
)
def test_harmless_sentences_stay(text: str) -> None:
    assert Redactor(["hunter2x"]).text(text) == text


@pytest.mark.parametrize(
    "name",
    ["api_key", "x-api-key", "X-Api-Key", "OPENAI_API_KEY", "openaiApiKey", "apikey", "Authorization", "access_token",
     "proxy-authorization", "password", "db_password", "secret", "client_secret", "token", "authToken", "credentials",
     "api_key_2", "secretKey", "Set-Cookie", "token_value"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert Redactor().value({name: "v", "other": {name: ["v", 1]}}) == {name: MARK, "other": {name: MARK}}
    assert not Redactor().is_clean({name: "v"})


@pytest.mark.parametrize(
    "name",
    ["input_tokens", "output_tokens", "max_tokens", "tokens", "token_count", "token_ids", "secret_ref", "token_ref",
     "api_key_env", "keyboard", "bypass_slot", "tokenizer", "authority_ref", "passage", "token_type", "key"],
)  # fmt: skip
def test_names_of_something_else(name: str) -> None:
    assert not is_secret_name(name)
    assert Redactor().value({name: "v"}) == {name: "v"}


@pytest.mark.parametrize("event", get_args(Event))
def test_no_field_of_an_event_has_a_secret_name(event: type[Event]) -> None:
    assert [field.name for field in fields(event) if is_secret_name(field.name)] == []


def test_what_stands_under_a_secret_name_goes_everywhere_in_the_value() -> None:
    value = {
        "headers": {"api_key": "zaq1xsw2cde3"},
        "message": "no such key: zaq1xsw2cde3!",
        "key": "Token zaq1xsw2cde3",
    }
    cleaned = Redactor().value(value | {"auth": {"authorization": "Token zaq1xsw2cde3"}})
    assert cleaned["message"] == f"no such key: {MARK}!"
    assert "zaq1" not in json.dumps(cleaned)


def test_nothing_known_of_a_secret_name_stays_as_it_is() -> None:
    value = {"api_key": None, "token": "", "secret": False}
    assert Redactor().value(value) == value


HOSTILE = [
    "sk-", "eyJ-", "a-", "://a:", "bearer ", "A", '"token":"', "Authorization: ", "-----BEGIN ", "AIza-",
    "eyJaaaaaaaa.", "Basic aB", "api_key=", "Bearer aaaaaaaaaaaaaaaaaaaa.", "sk-ant-", "AIzaaaaaaaaaaaaaaaaaaaaa-",
    "hunter2",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_work_on_hostile_texts_grows_with_their_length_alone(piece: str) -> None:
    """Four times the text takes about four times as long: a square would take sixteen times."""

    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        return min(timed(text) for _ in range(3))

    def timed(text: str) -> float:
        begun = time.thread_time()
        Redactor(["hunter2x"]).text(text)
        return time.thread_time() - begun

    assert seconds(400_000) < 10 * (seconds(100_000) + 0.002)


LONG = 3 * (1 << 18)


@pytest.mark.parametrize("place", [0, 1, (1 << 18) - 30, (1 << 18) - 1, 1 << 18, (1 << 18) + (1 << 16) - 5, LONG])
@pytest.mark.parametrize("secret", ["hunter2x", "sk-ant-" + "a1" * 20, "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"])
def test_a_secret_is_found_wherever_it_stands_in_a_long_text(secret: str, place: int) -> None:
    text = "." * place + " " + secret + " " + "." * (LONG - place)
    assert Redactor(["hunter2x"]).text(text) == text.replace(secret, MARK)


@pytest.mark.parametrize("beginning", ["api_key=", "Authorization: Bearer ", "sk-ant-", '"token": "'])
def test_a_secret_longer_than_what_is_searched_at_once_goes_whole(beginning: str) -> None:
    secret = "a1" * (1 << 18)
    cleaned = Redactor().text("x " + beginning + secret + '" end ' + "." * LONG)
    assert "a1a1" not in cleaned
    assert cleaned.endswith('" end ' + "." * LONG)
