"""What ``import trinity_mlx`` offers: complete, sorted, documented, and imported late."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trinity_mlx
from trinity_mlx import errors as public_errors
from trinity_mlx.contracts import errors

NAMES = trinity_mlx.__all__


def imported_names() -> dict[str, str]:
    """What the package's own module imports for the type checker: names, and the modules that they come from."""
    tree = ast.parse(Path(trinity_mlx.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {alias.asname or alias.name: f"trinity_mlx.{node.module}" for node in imports for alias in node.names}


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
    assert set(NAMES) == set(imported_names())


def test_the_type_checker_and_the_program_see_the_same_things() -> None:
    for name, module in imported_names().items():
        assert getattr(trinity_mlx, name) is getattr(import_module(module), name)


def test_every_error_is_in_one_module_and_the_families_in_the_package() -> None:
    every = {
        name
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, errors.TrinityError)
    }
    children = [child for child in errors.TrinityError.__subclasses__() if child.__module__ == errors.__name__]
    families = {"TrinityError", *(child.__name__ for child in children)}
    assert set(public_errors.__all__) == every
    assert all(getattr(public_errors, name) is getattr(errors, name) for name in every)
    assert every & set(NAMES) == families


def test_a_typed_program_that_uses_the_package_is_accepted() -> None:
    """What mypy says of ``tests/typed_program.py`` under ``--strict``, in a process of its own."""
    pytest.importorskip("mypy", reason="mypy comes with the extra dev")
    program = Path(__file__).parent / "typed_program.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)]
    result = subprocess.run(command, cwd=program.parent.parent, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("package", ["trinity_mlx", "trinity_backend_mlx", "trinity_backend_torch"])
def test_every_package_says_that_it_is_typed(package: str) -> None:
    [folder] = import_module(package).__path__
    assert (Path(folder) / "py.typed").is_file()


@given(st.text(max_size=30), st.integers(0, 100_000))
def test_a_message_is_bounded_and_keeps_both_ends(text: str, repeats: int) -> None:
    message = f"begin {text * repeats} end"
    told = str(errors.UsageError(message))
    assert len(told) <= errors.LONGEST
    assert told == message if len(message) <= errors.LONGEST else (told[:6], told[-4:]) == ("begin ", " end")


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
