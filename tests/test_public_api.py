"""What ``import trinity_mlx`` offers: complete, sorted, documented, and imported late."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import trinity_mlx
from trinity_mlx.contracts import errors

NAMES = trinity_mlx.__all__


def imported_names() -> set[str]:
    """What the package's own module imports from the modules below it, the type checker's part included."""
    tree = ast.parse(Path(trinity_mlx.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def public_members(owner: Any) -> dict[str, Any]:
    """Functions, properties and class methods that ``owner`` itself defines for others."""
    kinds = (property, classmethod, staticmethod)
    return {
        name: member
        for name, member in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds))
    }


def test_all_is_sorted_without_repeats() -> None:
    assert sorted(set(NAMES)) == NAMES


def test_all_is_exactly_what_the_package_imports_for_others() -> None:
    assert set(NAMES) == imported_names()


def test_every_error_that_a_user_can_meet_is_exported() -> None:
    family = {
        name
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, errors.TrinityError)
    }
    assert family - set(NAMES) == set()


def test_what_a_first_program_needs_is_there() -> None:
    assert {"load_router", "Router", "RouteDecision", "Message", "TrinityError"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves_to_a_documented_thing_of_ours(name: str) -> None:
    member = getattr(trinity_mlx, name)
    assert member.__name__ == name
    assert member.__module__.startswith("trinity_mlx.")
    assert inspect.getdoc(member)
    assert "__doc__" in vars(member) or inspect.isfunction(member)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_method_and_property_is_documented(name: str) -> None:
    undocumented = [
        member for member, value in public_members(getattr(trinity_mlx, name)).items() if not inspect.getdoc(value)
    ]
    assert undocumented == []


def test_a_star_import_brings_exactly_the_public_names() -> None:
    space: dict[str, Any] = {}
    exec("from trinity_mlx import *", space)
    assert set(space) - {"__builtins__"} == set(NAMES)


@pytest.mark.parametrize("name", ["route", "Rooter", "_private", "__wrapped__"])
def test_an_unknown_attribute_is_an_attribute_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'trinity_mlx' has no attribute '{name}'"):
        getattr(trinity_mlx, name)


def test_exit_codes_follow_the_error_tree() -> None:
    expected: dict[type[errors.TrinityError], int] = {
        errors.UsageError: 2,
        errors.EnvironmentUnavailable: 3,
        errors.ArtifactError: 4,
    }
    for parent, code in expected.items():
        children = parent.__subclasses__()
        assert children
        assert {child.exit_code for child in [parent, *children]} == {code}


def test_the_drawn_error_tree_is_the_real_one() -> None:
    drawn = [line.strip(" │├└─") for line in (errors.__doc__ or "").splitlines() if "─" in line]
    below = [name.split()[0] for name in drawn]
    assert sorted(below) == sorted(
        name for name in vars(errors) if inspect.isclass(getattr(errors, name)) and name != "TrinityError"
    )
