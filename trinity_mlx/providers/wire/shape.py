"""The few fields of an answer that are read, held to their types; numbers that are merely reported never spoil one."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from ...contracts.errors import ReplyInvalid
from ...files.models import first_fault
from .failures import Callee

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Shape(BaseModel):
    """Fields that are read from an SDK's object or from JSON; others do not matter."""

    model_config = ConfigDict(extra="ignore", from_attributes=True, hide_input_in_errors=True)


def _encodable(text: str) -> str:
    text.encode("utf-8")
    return text


def _none_if_unfit(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


Text = Annotated[str, AfterValidator(_encodable)]
"""Text of a model that is valid Unicode: JSON can spell half a character, which nothing after it could write down."""

Reported = Annotated[T | None, WrapValidator(_none_if_unfit)]
"""What only describes an answer: of another type, it counts as not given."""


def checked(callee: Callee, shape: type[M], value: object) -> M:
    """``value`` as ``shape``.

    Raises:
        ReplyInvalid: it has another one.
    """
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise callee.error(ReplyInvalid, f"the reply is malformed: {first_fault(error)}") from None
