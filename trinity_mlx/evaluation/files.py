"""Files of evaluations: read strictly, with the place of the first fault."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..contracts.canonical import unique_keys
from ..contracts.errors import InputFileError, TrinityError
from ..files.models import first_fault

M = TypeVar("M", bound=BaseModel)

_NOT_PLAIN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def plain(text: str) -> str:
    """``text`` in one line that every terminal and file can hold: what controls or is no character becomes U+FFFD."""
    return _NOT_PLAIN.sub("\ufffd", text)


def read_model(path: Path, model: type[M], invalid: type[TrinityError]) -> tuple[M, str]:
    """The file's content as ``model``, and the sha256 of its bytes.

    Raises:
        InputFileError: the file cannot be read.
        TrinityError: it is no such content: ``invalid``, with the place and the reason.
    """
    try:
        held = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputFileError(f"cannot read {str(path)!r}: {error}") from None
    try:
        value = json.loads(held, object_pairs_hook=unique_keys)
        return model.model_validate(value), hashlib.sha256(held).hexdigest()
    except ValidationError as error:
        raise invalid(f"{path}: {plain(first_fault(error))}") from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"{path} is not JSON that can be read: {error}") from None
