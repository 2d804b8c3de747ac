"""The house keeps its own rules: sizes, names, floors. Each check is shown to fail on what it forbids."""

import ast
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
MAX_P90_LINES = 30
TOP_LEVEL = {"Makefile", "README.md", "benchmarks", "pyproject.toml", "tests", "unionfs"}

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for top in ("unionfs", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py"))
MODULES = [path for path in SOURCES if path.is_relative_to(ROOT / "unionfs")]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: Function) -> int:
    """Return the lines of *function* without its docstring and decorators."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return body[-1].end_lineno - body[0].lineno + 2 if body[-1].end_lineno else 0


def parameters(function: Function) -> int:
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def offences(source: str) -> list[str]:
    """Return what is too large in one file, and that its docstring is missing."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["no docstring"]
    if (lines := source.count("\n")) > MAX_FILE_LINES:
        found.append(f"{lines} lines")
    for function in functions(tree):
        if (lines := length(function)) > MAX_FUNCTION_LINES:
            found.append(f"{function.name}: {lines} lines")
        if (count := parameters(function)) > MAX_PARAMETERS:
            found.append(f"{function.name}: {count} parameters")
    return found


def public_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def exported(tree: ast.Module) -> list[str] | None:
    """Return what ``__all__`` names, or None if the module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_to_its_limits(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


def test_functions_are_short_on_the_whole() -> None:
    lines = [length(function) for path in MODULES for function in functions(ast.parse(path.read_text("utf-8")))]
    assert statistics.quantiles(lines, n=10)[-1] <= MAX_P90_LINES


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("x = 1\n", "no docstring"),
        ('"""D."""\n' * 501, "501 lines"),
        ('"""D."""\ndef f():\n    """Two\n    lines."""\n' + "    a()\n" * 60, "f: 61 lines"),
        ('"""D."""\nclass A:\n    async def f(self, a, b, c, d, *, e, f, g): ...\n', "f: 7 parameters"),
    ],
)
def test_the_limits_can_be_broken(source: str, offence: str) -> None:
    assert offences(source) == [offence]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not public_names(tree) or exported(tree) is not None


def test_the_top_level_is_fixed() -> None:
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        tops = {line.split("/")[0] for line in listed.splitlines()}
    else:  # an unpacked archive
        tops = {path.name for path in ROOT.iterdir()} - {"build", "dist", "PKG-INFO"}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


PLANTED = {
    "upwards": ("core/planted.py", "import unionfs.cli", "floors"),
    "sideways": ("testing/planted.py", "import unionfs.fuse", "floors"),
    "no floor of its own": ("planted/__init__.py", "", "floors"),
    "pyfuse3 in the command line": ("cli/planted.py", "def f():\n    import pyfuse3", "fuse-only"),
    "ctypes in fuse": ("fuse/planted.py", "from ctypes import CDLL", "linux-only"),
    "fcntl in core": ("core/planted.py", "import fcntl", "linux-only"),
    "xattr in oci": ("oci/planted.py", "import xattr", "linux-only"),
    "trio in core": ("core/planted.py", "import trio", "core-synchronous"),
}


def lint_imports(checkout: Path, contract: str) -> subprocess.CompletedProcess[str]:
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-logo", "--no-cache", "--contract", contract],
        cwd=checkout,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "unionfs", tmp_path / "unionfs", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("violation", PLANTED)
def test_a_floor_holds_until_someone_breaks_it(copy: Path, violation: str) -> None:
    path, source, contract = PLANTED[violation]
    assert lint_imports(copy, contract).returncode == 0

    planted = copy / "unionfs" / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f'"""Planted."""\n\n{source}\n', encoding="utf-8")
    broken = lint_imports(copy, contract)
    assert broken.returncode == 1
    assert "planted" in broken.stdout


def compiled_modules() -> list[str]:
    command = ["make", "--silent", "--no-print-directory", "--eval", "modules: ; @echo $(MODULES)", "modules"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def test_what_is_compiled_is_made_of_what_the_compiler_can_take() -> None:
    """It takes a class of ours, and with others above it lays out memory that the garbage collector falls over."""
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in compiled_modules()}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fit = {"NamedTuple", "Protocol", "Exception", "ValueError", *(each.name for each in classes)}
    bases = {ast.unparse(base) for each in classes for base in each.bases}
    assert len(trees) > 40
    assert bases <= fit


def test_no_compiled_class_has_two_of_ours_above_it() -> None:
    for path in compiled_modules():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and len(node.bases) > 1] == []
