"""The house as DESIGN has it: imports point down, and nobody but the registry knows an engine by its name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt
from microgpt.engines.ladder import ALIASES, LADDER

PACKAGE = Path(microgpt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up: a module may import from its own floor's package and from lower floors.
FLOORS = [
    {"errors", "progress", "rng", "signals"},
    {"files"},
    {"scenarios"},
    {"tokenizers"},
    {"config", "feed", "model", "optim"},
    {"engines"},
    {"data", "runs", "inference"},
    {"training"},
    {"formats"},
    {"commands"},
    {"cli"},
    {"__main__"},
]


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "microgpt":
            direct = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= direct if node.module == "microgpt" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("microgpt.")}
    return {part(name) for name in found}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name == "__init__":
        return
    for imported in imports(path) - {name, "__version__"}:
        assert floor(imported) <= floor(name), f"{name} imports {imported}"


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
