"""The layout of HOUSE: imports point down, modules form no circle, files are short, and tests mirror the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import microgpt
from microgpt.engines.ladder import ALIASES, LADDER

PACKAGE = Path(microgpt.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

# From the bottom up: a module may import from its own floor and from lower floors.
FLOORS = [
    {"errors", "json_text", "limits", "older", "progress", "rng", "signals"},
    {"files"},
    {"terminal"},
    {"scenarios"},
    {"tokenizers"},
    {"config", "feed", "model", "optim"},
    {"data"},
    {"engines"},
    {"runs"},
    {"inference"},
    {"training"},
    {"recipes"},
    {"formats"},
    {"serve"},
    {"experiments"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
MOST_LINES = 350
LONGER = f"Longer than {MOST_LINES} lines, because"  # the sentence at the head of a file that has more


def name_of(path: Path) -> str:
    """The module of a file: microgpt.data.corpus, or of a package's __init__ microgpt.data."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph(paths: list[Path]) -> dict[str, set[str]]:
    """The modules that each module imports, at its top and within functions and `if TYPE_CHECKING` alike."""
    known = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    return {name: set(imports(tree, known)) - {name} for name, tree in known.items()}


def imports(tree: ast.Module, known: Mapping[str, object]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where an arrow leads"
            for alias in node.names:
                direct = f"{node.module}.{alias.name}"
                yield from [name for name in (direct, node.module) if name in known][:1]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def circles(edges: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of modules that reach each other."""
    reach = {name: set(below) for name, below in edges.items()}
    for middle in edges:
        for below in reach.values():
            if middle in below:
                below |= reach[middle]
    found: list[set[str]] = []
    for name, below in reach.items():
        if name in below and not any(name in circle for circle in found):
            found.append({other for other in below if name in reach[other]})
    return found


def floor(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, names in enumerate(FLOORS) if part in names)


GRAPH = graph(MODULES)


@pytest.mark.parametrize("module", [name for name in GRAPH if name != "microgpt"])
def test_imports_point_down(module: str) -> None:
    for imported in GRAPH[module] - {"microgpt"}:  # the root holds the version
        assert floor(imported) <= floor(module), f"{module} imports {imported}"


def test_a_circle_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert circles(edges) == [{"b", "c"}, {"e", "f"}]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("paths", [MODULES, BENCHMARKS], ids=["microgpt", "benchmarks"])
def test_no_module_imports_itself_by_way_of_others(paths: list[Path]) -> None:
    assert [sorted(circle) for circle in circles(graph(paths))] == []


@pytest.mark.parametrize("folder", ["microgpt", "benchmarks", "tests", "docs", "gpt.py"])
def test_no_file_is_long_without_a_reason(folder: str) -> None:
    place = ROOT / folder
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        assert (lines > MOST_LINES) == (LONGER in text[:3000]), f"{path.relative_to(ROOT)} has {lines} lines"


def test_tests_mirror_the_package() -> None:
    """A folder of the package has a folder of tests, or a file that is named after it."""
    for package in sorted({path.parent for path in MODULES if path.name == "__init__.py"} - {PACKAGE}):
        parts = package.relative_to(PACKAGE).parts
        if len(parts) > 2:  # the insides of a rung are tested as its owner sees fit
            continue
        place = ROOT.joinpath("tests", *parts)
        files = [*place.glob("**/test_*.py"), *place.parent.glob(f"test_{place.name}.py")]
        assert files, f"no tests of {'/'.join(parts)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_engine_is_known_by_name_outside_engines(path: Path) -> None:
    if "engines" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in {*LADDER, *ALIASES} - {"python"}, (
                f"line {node.lineno} names the engine {node.value!r}"
            )


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, microgpt.cli; print([m for m in ('numpy', 'pydantic', 'rich', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["gpt", "microgpt.engines.scalar"])
def test_the_definition_needs_the_standard_library_alone(module: str) -> None:
    path = Path(sys.modules[module].__file__ or "") if module in sys.modules else None
    source = path or (PACKAGE.parent / "gpt.py" if module == "gpt" else PACKAGE / "engines" / "scalar.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    guarded = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in guarded:  # if TYPE_CHECKING
            continue
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots = {(node.module or "").split(".")[0]}
        else:
            continue
        assert roots <= {*sys.stdlib_module_names, "microgpt"}
