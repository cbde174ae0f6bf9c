"""The numbers of a walkthrough are those that the rungs compute, and its citations are lines of their source."""

from __future__ import annotations

import numpy as np
import pytest

from microgpt.config import Optim
from microgpt.engines.walkthrough import lines
from microgpt.engines.walkthrough.differences import compare, compute, rungs
from microgpt.engines.walkthrough.operations import operations
from microgpt.engines.walkthrough.step import Step, count_numbers, take_step
from microgpt.model import n_params
from tests.engines.ladder import CASES, DEFINITION, apart, batches, build, gradient, moments, small

ONE_ROW = [name for name, case in CASES.items() if not case.feed]
CLOSE = 1e-12
LR = 0.01


def walk(name: str) -> Step:
    case = CASES[name]
    model = small(**case.model)
    return take_step(model, Optim(**case.optim), moments(model), batches(model, case, steps=1), LR)


@pytest.mark.parametrize("rung", [DEFINITION, "tensor", "manual"])
@pytest.mark.parametrize("name", ONE_ROW)
def test_gradients_are_the_rungs(name: str, rung: str) -> None:
    case, found = CASES[name], walk(name)
    model = small(**case.model)
    loss, expected = gradient(rung, model, moments(model), batches(model, case, steps=1))
    assert abs(float(found.values["loss"]) - loss) < CLOSE
    assert apart({weight: found.gradients[weight] for weight in expected}, expected) < CLOSE


@pytest.mark.parametrize("rung", [DEFINITION, "manual"])
@pytest.mark.parametrize("name", ONE_ROW)
def test_the_update_is_the_rungs(name: str, rung: str) -> None:
    case, found = CASES[name], walk(name)
    model = small(**case.model)
    it = build(rung, model, Optim(**case.optim))
    state, _ = it.train(it.load(moments(model)), batches(model, case, steps=1), np.array([LR]))
    assert apart(found.after, it.dump(state)) < CLOSE
    assert all(np.array_equal(found.before[name], x) for name, x in moments(model).items())


@pytest.mark.parametrize("name", [name for name in ONE_ROW if not CASES[name].model.get("dropout")])
def test_values_are_the_rungs(name: str) -> None:
    """Bit for bit those of the rung that is walked, and close to those that another one shows of itself."""
    case, found = CASES[name], walk(name)
    model = small(**case.model)
    feed = batches(model, case, steps=1)
    tokens = feed.tokens[:-1]
    logits = found.values["softcap" if model.softcap else "logits"]
    it = build("tensor", model)
    assert np.array_equal(logits, it.logits(it.load(moments(model)), tokens)[0])
    other = build("manual", model)
    assert other.inspect
    shown = other.inspect(other.load(moments(model)), tokens)
    for i in range(model.n_layer):
        ours = {name: found.values[f"layer{i}.{name}"] for name in ("mix", "attention", "activation", "mlp_residual")}
        theirs = {each: shown[f"layer{i}.{each}"] for each in ("mix", "attention", "mlp", "after_mlp")}
        theirs["mix"] = theirs["mix"].swapaxes(0, 1).reshape(len(tokens), -1)
        for x, y in zip(ours.values(), theirs.values(), strict=True):
            assert np.abs(np.nan_to_num(x) - y).max() < CLOSE


def test_a_masked_score_is_no_number() -> None:
    found = walk("classic")
    for part in ("scores", "attention"):
        masked = np.triu(np.ones(found.values[f"layer0.{part}"].shape[1:], bool), k=1)
        for x in (found.values[f"layer0.{part}"], found.gradients[f"layer0.{part}"]):
            assert np.array_equal(np.isnan(x), np.broadcast_to(masked, x.shape))


def test_every_number_is_counted() -> None:
    """Twice each value and gradient of a step, and seven numbers per weight, are no more than was said before."""
    for name in ONE_ROW:
        found, model = walk(name), small(**CASES[name].model)
        of_operations = sum(2 * found.values[each.name].size for each in found.operations)
        T = len(found.values["losses"])
        assert of_operations + 7 * n_params(model) <= count_numbers(model, T) < 3 * of_operations + 7 * n_params(model)


def test_one_row_is_walked() -> None:
    model = small()
    with pytest.raises(ValueError, match="one row"):
        take_step(model, Optim(), moments(model), batches(model, CASES["batch"], steps=1), LR)


@pytest.mark.parametrize("source", lines.SOURCES, ids=lambda source: source.name)
def test_every_citation_is_a_line(source: lines.Source) -> None:
    text = lines.texts()[source.name]
    for table in (source.roles, source.kinds, source.derivatives):
        for cited in table.values():
            for each in cited:
                number = lines.find(text, each)
                assert each.partition(" #")[0] in text.split("\n")[number - 1]
    for each in (*source.chain, *source.update):
        lines.find(text, each)
    assert source.update


def test_every_operation_is_cited() -> None:
    """By every rung for every option, and by gpt.py for its own model."""
    found = lines.texts()
    for name in ONE_ROW:
        for operation in operations(small(**CASES[name].model)):
            for source in (lines.SCALAR, lines.TENSOR, lines.MANUAL):
                cited = source.lines(found[source.name], operation)
                assert cited.forward, f"{source.name}: {operation.name}"
                assert cited.backward, f"{source.name}: {operation.name}"
    for operation in operations(small(n_layer=2)):
        assert lines.GPT.lines(found["gpt.py"], operation).forward, operation.name
    assert lines.GPT.lines(found["gpt.py"], operations(small(final_norm=True))[-5]) == ([], [])


def test_a_citation_is_one_line() -> None:
    assert lines.find("a\nb = a\n", "b = ") == 2
    assert lines.find("a\nb = a\n", "a #2") == 2
    for cited in ("a", "c", "a #3"):
        with pytest.raises(ValueError, match="lines"):
            lines.find("a\nb = a\n", cited)


def test_the_first_difference() -> None:
    a = {"x": np.zeros((2, 3)), "y": np.array([1.0, np.nan]), "z": np.ones(4), "only": np.ones(1)}
    b = {"x": np.zeros((2, 3)), "y": np.array([1.0, np.nan]), "z": np.ones(5)}
    b["x"][1, 0], b["x"][1, 2] = 0.5, 2.0
    x, y, z = compare(a, b)
    assert (x.first, x.values, x.count, x.of, x.largest) == ((1, 0), (0.0, 0.5), 2, 6, 1.0)
    assert (y.count, y.first) == (0, None)
    assert z.shapes == ((4,), (5,))


def test_rungs_differ_by_rounding_alone() -> None:
    case = CASES["clip"]
    model, optim = small(), Optim(**case.optim)
    tensors, feed = moments(model), batches(model, case, steps=1)

    def of(rung: str, dtype: str) -> dict[str, np.ndarray]:
        return compute(rung, dtype, model, optim, tensors, feed, LR)

    definition = of(DEFINITION, "float64")
    assert not any(each.count for each in compare(definition, of(DEFINITION, "float64")))
    assert max(each.largest for each in compare(definition, of("manual", "float64"))) < CLOSE
    assert 1e-9 < max(each.largest for each in compare(definition, of("manual", "float32"))) < 1e-5
    names = list(definition)
    assert names[:3] == ["logits", "loss", "gradient of lm_head"]
    assert names.index("gradient of layer0.mlp_fc2") < names.index("gradient of wte") < names.index("m.wte")
    found = walk("clip")  # without the clip: it comes after the gradient
    assert apart({k: definition[f"gradient of {k}"] for k in ("wte",)}, {"wte": found.gradients["wte"]}) < CLOSE


def test_the_rungs_that_are_here() -> None:
    assert next(iter(rungs())) == DEFINITION
    assert rungs()["manual"] == ("float32", "float64")
