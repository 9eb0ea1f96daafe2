"""What options of several commands have in common: their types, and the options themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..contracts.errors import UsageError
from .process import is_encodable

ARTIFACT_HELP = (
    "A name from `trinity-mlx artifacts`, or a bundle's folder; auto is the published router once fetched, else nano."
)


class Name(click.ParamType[str]):
    """A name or a place, and not an empty one: that would be a variable in a script that was never set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is; the command ends with a usage error where it is empty."""
        if value == "":
            self.fail("it is empty: give a name, or leave the option out.", param, ctx)
        return str(value)


class Text(click.ParamType[str]):
    """A text that can be written into a file, unlike the bytes of no encoding that a shell can pass."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text; the command ends with a usage error where it is none."""
        if not is_encodable(str(value)):
            self.fail(f"{value!r} holds bytes that are no text.", param, ctx)
        return str(value)


class PersonName(Text):
    """A person's name: one line of up to 200 characters that can be shown."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name without spaces around it; the command ends with a usage error where it is none."""
        text = super().convert(value, param, ctx).strip()
        if not text.isprintable() or not 0 < len(text) <= 200:
            self.fail("a name is one line of 1 to 200 characters.", param, ctx)
        return text


class Place(click.ParamType[Path]):
    """A path of a file or a folder, which need not be there; ``~`` is expanded."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; the command ends with a usage error where no path can have that name."""
        if value == "":
            self.fail("it is empty: name a file or a folder.", param, ctx)
        try:
            return Path(value).expanduser()
        except RuntimeError:
            self.fail(f"{value!r} begins with a user whom this machine does not know.", param, ctx)


class FiniteRange(click.FloatRange):
    """A number in a range; neither ``nan``, which every comparison lets through, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; the command ends with a usage error where it is none."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


NAME, TEXT, PLACE = Name(), Text(), Place()
DTYPE = click.Choice(["float32", "bfloat16", "float16"])

artifact_option = click.option(
    "--artifact", type=NAME, default="auto", show_default=True, envvar="TRINITY_ARTIFACT", help=ARTIFACT_HELP
)
signed_off_option = click.option(
    "--signed-off-by",
    type=PersonName(),
    metavar="NAME",
    help="Who reviewed and approved it; recorded with today's date.",
)
base_option = click.option(
    "--base",
    type=NAME,
    help="Base model: a folder in Hugging Face layout, or OWNER/NAME[@REVISION].",
)
profile_option = click.option(
    "--profile",
    type=NAME,
    default="auto",
    show_default=True,
    envvar="TRINITY_PROFILE",
    help="Runtime profile; see `trinity-mlx profiles`.",
)
policy_option = click.option(
    "--policy",
    type=NAME,
    default="default",
    show_default=True,
    envvar="TRINITY_POLICY",
    help="default, or published: the behaviour of the published port.",
)
dtype_option = click.option("--dtype", type=DTYPE, help="Number type, instead of the profile's.")
required_base_option = click.option(
    "--base",
    required=True,
    type=NAME,
    help="Base model: a folder in Hugging Face layout, or OWNER/NAME[@REVISION].",
)
messages_option = click.option(
    "--messages", type=NAME, metavar="FILE", help="A conversation as JSON: a list of {role, content}, or {messages}."
)
window_option = click.option(
    "--window", type=TEXT, metavar="HEAD,TAIL", help="Read this many of the first and the last tokens of a long text."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")


def whole_numbers(text: str | None, option: str, what: str, example: str) -> tuple[int, ...] | None:
    """The numbers in ``text``, which ``option`` was given with commas between them; None without it.

    Raises:
        UsageError: they are not whole numbers; the message asks for ``what``, as in ``example``.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} is {text!r}: give {what} with commas, as in {option} {example}") from None
