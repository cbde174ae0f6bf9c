"""No file is ever run as code, no shell is asked, and the disk is written in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import microgpt

PACKAGE = Path(microgpt.__file__).parent
FILES = [*sorted(PACKAGE.rglob("*.py")), PACKAGE.parent / "gpt.py"]
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "runpy"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {"torch.load", "os.system", "os.popen", "yaml.load", "np.save", "np.savez", "np.fromfile", "torch.save"}
WRITES = {
    *(f"os.{name}" for name in "write remove unlink rename replace rmdir removedirs mkdir makedirs truncate".split()),
    *(f"shutil.{name}" for name in "rmtree move copy copy2 copyfile copytree make_archive unpack_archive".split()),
}  # fmt: skip
METHODS = {"write_text", "write_bytes", "touch", "unlink", "rmdir", "rename", "symlink_to", "hardlink_to", "tofile"}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def mode(call: ast.Call, place: int) -> str:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args[place : place + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


def code_as_data(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            shell = any(k.arg == "shell" and getattr(k.value, "value", 1) for k in node.keywords)
            allowed_pickle = any(k.arg == "allow_pickle" and getattr(k.value, "value", 1) for k in node.keywords)
            if name in NAMES | CALLS or shell or allowed_pickle:
                found.append(f"{name} in line {node.lineno}")
    return found


def writes(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, method = dotted(node.func), node.func.attr if isinstance(node.func, ast.Attribute) else ""
        opens = name == "open" and set(mode(node, 1)) & set("wax+")
        path_opens = method == "open" and name != "os.open" and set(mode(node, 0)) <= set("rwaxbt+") - {"r"}
        if opens or path_opens or name in WRITES or method in METHODS:
            found.append(f"{name} in line {node.lineno}")
    return found


# Reads beside those of files.py, which look at the kind and the size of a file first: by file and function.
READS = {
    ("cli.py", "_open_streams"): "the null device",
    ("bench.py", "peak_rss_mb"): "/proc, of this process",
    ("bench.py", "lines_of_code"): "the package's own source files",
    ("cache.py", "_key"): "the package's own source files, and Numba's",
    ("hardware.py", "cpu_text"): "/proc, whose files have no size",
    ("hardware.py", "cache_sizes"): "/sys, whose files have no size",
    ("hardware.py", "memory"): "/sys, whose files have no size",
    ("elf.py", "place"): "memory, no file",
    ("gguf.py", "write"): "a temporary file that was just written",
    ("hf.py", "write"): "a file of the package",
    ("html.py", "source"): "a file of the package",
    ("sources.py", "_open"): "texts, larger than memory; file_source looks at their kind",
    ("encode.py", "_open"): "the cache of a long text, whose folder is our own",
    ("bin_files.py", "_open"): "files of tokens, mapped, whose sizes were looked at",
    ("token_folder.py", "map_pages"): "files of tokens, mapped, whose sizes are compared",
    ("token_folder.py", "map_numbers"): "the numbers beside them, mapped, whose sizes are compared",
}


def reads(tree: ast.AST) -> list[tuple[str, str]]:
    """The function and the call of each read of a file."""
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                name = dotted(node.func)
                method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                opens = name in {"open", "io.open", "gzip.open", "zstandard.open", "codecs.open"}
                path_opens = method == "open" and not name.startswith(("os.", "?.")) and name[0].islower() and not opens
                maps = name in {"np.memmap", "np.fromfile", "np.loadtxt", "np.load", "mmap.mmap"}
                whole = method in {"read_text", "read_bytes"} and name != "files.read_bytes"
                if opens or maps or whole or (path_opens and name != "source.open"):
                    found.append((function.name, name))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_read_in_one_place(path: Path) -> None:
    """No pipe is waited for, and no file is read whole before its size was looked at."""
    found = reads(ast.parse(path.read_text(encoding="utf-8")))
    if path.name == "files.py":
        assert {function for function, _ in found} == {"open_plain", "read_bytes"}
    else:
        assert [read for read in found if (path.name, read[0]) not in READS] == []


def test_every_exception_for_a_read_is_needed() -> None:
    found = {(path.name, function) for path in FILES for function, _ in reads(ast.parse(path.read_text("utf-8")))}
    assert READS.keys() <= found


def json_writers(tree: ast.AST) -> list[str]:
    """The calls that write JSON; "(NaN)" marks one that would write a number that is not finite."""
    found, names = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "json"}
        elif isinstance(node, ast.ImportFrom) and node.module == "json":
            found += [f"json.{alias.name}" for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "JSONEncoder":
            found.append(node.attr)
        elif isinstance(node, ast.Call) and dotted(node.func) in {f"{name}.{call}" for name in names for call in WRITE}:
            strict = any(k.arg == "allow_nan" and getattr(k.value, "value", 1) is False for k in node.keywords)
            found.append(dotted(node.func) + " (NaN)" * (not strict))
    return found


WRITE = ("dump", "dumps")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_json_is_written_in_one_place(path: Path) -> None:
    """And without NaN, which JSON does not have."""
    found = json_writers(ast.parse(path.read_text(encoding="utf-8")))
    assert set(found) == ({"json.dumps"} if path.name == "json_text.py" else set())


@pytest.mark.parametrize(
    "code",
    ["import json; json.dumps(x)", "import json as js; js.dump(x, f)", "from json import dumps", "json.JSONEncoder()"],
)
def test_the_test_sees_json(code: str) -> None:
    assert json_writers(ast.parse(code))
    assert not json_writers(ast.parse("import json; json_text.dumps(x); tomli_w.dumps(x); json.loads(x)"))
    assert json_writers(ast.parse("import json; json.dumps(x, allow_nan=False)")) == ["json.dumps"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_is_run_as_code(path: Path) -> None:
    assert code_as_data(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_disk_is_written_in_one_place(path: Path) -> None:
    found = writes(ast.parse(path.read_text(encoding="utf-8")))
    if path.name == "files.py":
        assert found
    else:
        assert found == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "exec(x)", "torch.load(f)", "os.system('ls')",
     "run(x, shell=True)", "np.load(f, allow_pickle=True)", "import yaml"],
)  # fmt: skip
def test_the_test_sees_code(code: str) -> None:
    assert code_as_data(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    ["open(p, 'w')", "open(p, mode='ab')", "p.open('w')", "p.write_text(x)", "os.replace(a, b)", "shutil.move(a, b)",
     "os.unlink(a)", "open(p, 'r+')"],
)  # fmt: skip
def test_the_test_sees_writes(code: str) -> None:
    assert writes(ast.parse(code))
    assert not writes(ast.parse("open(p); open(p, 'rb'); p.open(); Image.open(p)"))


@pytest.mark.parametrize(
    "code",
    ["open(p)", "open(p, 'rb')", "p.open()", "p.read_text()", "Path(p).read_bytes()", "gzip.open(p)", "np.memmap(p)"],
)
def test_the_test_sees_reads(code: str) -> None:
    assert reads(ast.parse(f"def f(): {code}"))
    assert not reads(ast.parse("def f(): files.read_bytes(p, 1); files.open_plain(p); source.open(); Model.open(p)"))
