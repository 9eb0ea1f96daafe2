"""The rules of the house: arrows point down, contracts cost nothing, applications alone read the environment."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import trinity_mlx
from trinity_mlx import errors

PACKAGE = Path(trinity_mlx.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"numpy", "pydantic", "tokenizers", "safetensors", "huggingface_hub", "click"}
FRAMEWORKS = {"torch", "mlx", "mlx_lm", "transformers", "jax", "tensorflow"}
LOCAL_MODELS = {"providers/local/mlx.py", "providers/local/transformers.py"}
"""The provider that runs a model in this process: the one part of the core that a framework may enter."""
VISIBLE_TO_BACKENDS = {f"trinity_mlx.{room}" for room in ("contracts", "factorization", "files", "sharing")}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "Path.home", "os.path.expanduser"}
PATCHES = {"setattr", "delattr", "patch", "patch.object", "patch.dict"}
LAST_NAMES = {name.rpartition(".")[2] for name in PATCHES}
PATCHED = {
    "tiles.TILE_ELEMENTS": "a tile holds more than any matrix that a test has time for",
    "mx.fast.name": "that composed kernels call no fused one shows in the framework alone",
    "torch.nn.functional.scaled_dot_product_attention": "the same",
}
"""What tests may put something else in the place of, and why there is no seam for it."""

ERRORS = set(errors.__all__)


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


BELOW_APPLICATIONS = [path for path in MODULES if not label(path).startswith(("cli/", "server/"))]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def breaches(paths: Iterable[Path], found: Callable[[Path], Iterable[str]]) -> dict[str, set[str]]:
    """What each of ``paths`` has that it must not have, for those that have any."""
    return {path.as_posix(): what for path in paths if (what := set(found(path)))}


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def absolute_imports(path: Path) -> Iterator[str]:
    """First part of the name of every module that ``path`` imports absolutely, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield from (str(each.value).partition(".")[0] for each in node.args if isinstance(each, ast.Constant))


def environment_reads(tree: ast.AST) -> set[str]:
    """Names under which ``tree`` would read the process's environment or the user's home."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and any(name.endswith(node.attr) for name in ENVIRONMENT):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.removeprefix("pathlib.") for name in names} & ENVIRONMENT


def patches(tree: ast.AST) -> Iterator[str]:
    """What ``tree`` puts something else in the place of, by pytest's ``monkeypatch`` or by ``unittest.mock``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in LAST_NAMES:
            owner, _, what = ast.unparse(node.func).partition(".")
            if owner in ("monkeypatch", "patch", "mock", "mocker") and (what or owner) in PATCHES:
                yield ".".join(ast.unparse(each).strip("'") for each in node.args[:2])


def command_line_advice(tree: ast.AST) -> list[str]:
    """Texts of errors that name an option or a command of the command line."""
    makers = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) in ERRORS]
    texts = [part.value for node in makers for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return [
        text for text in texts if isinstance(text, str) and re.search(r"(^|[\s`(])(--[a-z]|trinity-mlx [a-z])", text)
    ]


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="the import contracts lie in the checkout")
def test_every_import_contract_is_kept() -> None:
    linter = pytest.importorskip("importlinter.cli", reason="import-linter comes with the extra dev")
    assert linter
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def package_imports(path: Path) -> Iterator[str]:
    """What ``path`` imports of this package: ``trinity_mlx.<room>``, or the package itself."""
    for node in ast.walk(tree_of(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "trinity_mlx" else [module]
        yield from (".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "trinity_mlx")


@pytest.mark.parametrize("backend", ["trinity_backend_mlx", "trinity_backend_torch"])
def test_backends_see_contracts_and_tools_alone(backend: str) -> None:
    package = importlib.util.find_spec(backend)
    assert package is not None
    assert package.submodule_search_locations
    modules = [path for folder in package.submodule_search_locations for path in Path(folder).rglob("*.py")]
    seen = {name for path in modules for name in package_imports(path)}
    assert "trinity_mlx.contracts" in seen
    assert seen <= VISIBLE_TO_BACKENDS


@pytest.mark.parametrize(
    "text",
    ["import trinity_mlx.tracing", "from trinity_mlx import runs", "from trinity_mlx.pools.files import find_pool"],
)
def test_the_check_of_backends_sees_every_way_to_import(text: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(text)
    assert not set(package_imports(module)) <= VISIBLE_TO_BACKENDS


def test_there_are_modules_to_check() -> None:
    names = {label(path) for path in MODULES}
    assert {"__init__.py", "contracts/errors.py", "routing/router.py", "cli/main.py"} <= names


@pytest.mark.parametrize("path", sorted((PACKAGE / "contracts").glob("*.py")), ids=label)
def test_contracts_import_the_standard_library_and_each_other_only(path: Path) -> None:
    assert set(absolute_imports(path)) <= sys.stdlib_module_names
    relative = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and node.level]
    assert {node.level for node in relative} <= {1}


def test_the_core_imports_no_tensor_framework() -> None:
    core = (path for path in MODULES if label(path) not in LOCAL_MODELS)
    assert breaches(core, lambda path: set(absolute_imports(path)) & FRAMEWORKS) == {}


def test_applications_alone_read_the_environment() -> None:
    assert breaches(BELOW_APPLICATIONS, lambda path: environment_reads(tree_of(path))) == {}


def test_errors_below_the_command_line_name_none_of_its_options() -> None:
    assert breaches(BELOW_APPLICATIONS, lambda path: command_line_advice(tree_of(path))) == {}


@pytest.mark.parametrize(
    "text",
    [
        "raise OutputExists(f'{out} exists: pass --force')",
        "raise ArtifactNotFound('run `trinity-mlx fetch sakana` first')",
        "def f():\n    return ResumeRefused('start anew ' 'with --force')",
    ],
)
def test_that_check_sees_options_and_commands(text: str) -> None:
    assert command_line_advice(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ['A']",
        "import os\nos.environ.get('A')",
        "import os\nos.getenv('A')",
        "from os import environ",
        "from os import getenv as read",
        "from pathlib import Path\nPath.home()",
        "import pathlib\npathlib.Path.home() / 'x'",
        "import os\nos.path.expanduser('~')",
    ],
)
def test_the_environment_check_sees_every_way_to_read_it(text: str) -> None:
    assert environment_reads(ast.parse(text))


def test_tests_use_seams_and_patch_no_module() -> None:
    tests = Path(__file__).parent.rglob("*.py")
    assert breaches(tests, lambda path: set(patches(tree_of(path))) - PATCHED.keys()) == {}


@pytest.mark.parametrize(
    "text",
    [
        "monkeypatch.setattr(shutil, 'disk_usage', fake)",
        "with pytest.MonkeyPatch.context() as patch:\n    patch.setattr('shutil.disk_usage', fake)",
        "mock.patch.object(os, 'fsync')",
        "with patch('os.fsync'):\n    write()",
        "monkeypatch.delattr(os, 'sync')",
    ],
)
def test_that_check_sees_every_way_to_patch(text: str) -> None:
    assert set(patches(ast.parse(text))) - PATCHED.keys()


def test_the_environment_check_allows_a_path_that_the_user_gave() -> None:
    assert not environment_reads(ast.parse("from pathlib import Path\nPath(source).expanduser()"))


@pytest.mark.parametrize(
    "text", ["import torch.nn", "from mlx import core", "def f():\n    import jax", "import_module('torch')"]
)
def test_the_framework_check_sees_every_way_to_import_one(text: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(text)
    assert set(absolute_imports(module)) & FRAMEWORKS


@pytest.mark.parametrize("module", ["trinity_mlx", "trinity_mlx.contracts.backend", "trinity_mlx.rules.choice"])
def test_importing_costs_no_numpy_no_pydantic_and_no_framework(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "trinity_mlx" in loaded
    assert loaded & (FRAMEWORKS | HEAVY) == set()
