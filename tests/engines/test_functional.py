"""The functional rung holds its promise: nothing that exists is assigned to, and nothing but Python is needed."""

import ast
import random
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines import functional
from microgpt.engines.common import tuples
from microgpt.feed import pack
from microgpt.model import init_weights

STATEMENTS = (ast.AugAssign, ast.Delete, ast.For, ast.While, ast.With, ast.Global, ast.Nonlocal, ast.NamedExpr)
MUTATORS = {"__setattr__", "__delattr__"}.union(
    *(set(dir(kind)) - set(dir(frozen)) for kind, frozen in ((list, tuple), (dict, MappingProxyType), (set, frozenset)))
)
BUILTINS = {"setattr", "delattr", "exec", "eval", "next", "globals", "locals", "vars"}


def names(target: ast.AST) -> list[str | None]:
    """What an assignment binds; None for an attribute or an element of something that exists."""
    if isinstance(target, ast.Name):
        return [target.id]
    if isinstance(target, ast.Tuple | ast.List):
        return [name for part in target.elts for name in names(part)]
    return [None]


def bindings(scope: ast.AST) -> list[str | None]:
    """Everything bound in one scope, without the scopes inside it."""
    bound: list[str | None] = []
    if isinstance(scope, ast.FunctionDef | ast.Lambda):
        a = scope.args
        bound += [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x]
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Assign):
            bound += [name for target in node.targets for name in names(target)]
        elif isinstance(node, ast.AnnAssign):
            bound += names(node.target)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.append(node.name)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return bound


def mutations(code: str) -> list[str]:
    """Every place of the source that changes something, or gives a name a second meaning."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, STATEMENTS):
            found.append(f"line {node.lineno}: {type(node).__name__}")
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr in MUTATORS:
                found.append(f"line {node.lineno}: .{called.attr}()")
            if isinstance(called, ast.Name) and called.id in BUILTINS:
                found.append(f"line {node.lineno}: {called.id}()")
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.Lambda):
            bound = bindings(node)
            found += [
                f"in {getattr(node, 'name', 'module')}: {n}" for n in set(bound) if n is None or bound.count(n) > 1
            ]
    return found


def source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [functional, tuples])
def test_nothing_that_exists_is_assigned_to(module: ModuleType) -> None:
    assert mutations(source(module)) == []


@pytest.mark.parametrize(
    "code",
    [
        "x.a = 1",
        "x[0] = 1",
        "a, x.b = 1, 2",
        "x += 1",
        "x.a += 1",
        "del x[0]",
        "x.append(1)",
        "x.update(y)",
        "x.sort()",
        "setattr(x, 'a', 1)",
        "x.__setitem__(0, 1)",
        "for i in x: pass",
        "(y := 1)",
        "x = 1\nx = 2",
        "def f(x):\n    x = x + 1",
        "def f():\n    global x",
    ],
)
def test_the_check_sees(code: str) -> None:
    assert mutations(code)


@pytest.mark.parametrize("module", [functional, tuples])
def test_only_the_standard_library(module: ModuleType) -> None:
    tree = ast.parse(source(module))
    later = [node for block in tree.body if isinstance(block, ast.If) for node in ast.walk(block)]
    modules = [
        name
        for node in ast.walk(tree)
        if node not in later and isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert {name.partition(".")[0] for name in modules} <= {*sys.stdlib_module_names, "microgpt"}


def test_what_was_handed_in_stays() -> None:
    model, optim = Model(vocab_size=5, block_size=4, n_embd=4, n_head=2), Optim()
    engine = functional.Engine(model, optim)
    before = engine.load(init_weights(model, random.Random(1)))
    weights = engine.dump(before)
    after, _ = engine.train(before, pack([[4, 0, 1, 4], [4, 2, 4]]), np.full(2, 0.01))
    assert all(np.array_equal(weights[name], a) for name, a in engine.dump(before).items())
    assert not np.array_equal(weights["wte"], engine.dump(after)["wte"])

    _, cache = engine.logits(after, np.array([4, 0]))
    one, longer = engine.logits(after, np.array([1]), cache)
    again, _ = engine.logits(after, np.array([1]), cache)
    assert np.array_equal(one, again)
    assert (len(cache.keys[0]), len(longer.keys[0])) == (2, 3)


def test_nothing_can_be_changed() -> None:
    model, optim = Model(vocab_size=5, block_size=4, n_embd=4, n_head=2), Optim()
    engine = functional.Engine(model, optim)
    state = engine.load(init_weights(model, random.Random(1)))
    with pytest.raises(AttributeError):
        engine.model = model
    with pytest.raises(AttributeError):
        state.w = {}
    with pytest.raises(TypeError):
        state.w["wte"] = ()
    with pytest.raises(TypeError):
        state.w["wte"][0][0] = 0.0
