"""The meaning of 'the same model': one suite over every rung of the ladder and every option.

Longer than 350 lines, because every test of it runs over all rungs and all options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, init_weights
from microgpt.optim import learning_rates
from microgpt.tokenizers import train
from tests.engines import reference
from tests.engines.ladder import (
    CASES,
    DEFINITION,
    EVERYTHING,
    EXACT,
    FLOAT64,
    GRADIENT,
    LADDER,
    LOSS,
    ROUNDED,
    SLOW,
    STEPS,
    apart,
    batches,
    build,
    documents,
    golden,
    gradient,
    moments,
    result,
    same,
    small,
    weights,
)

every_rung = pytest.mark.parametrize("rung", EXACT)
every_dtype = pytest.mark.parametrize(
    ("rung", "dtype"), [(rung, dtype) for rung, facts in LADDER.items() for dtype in facts.dtypes]
)
plain_and_everything = pytest.mark.parametrize("case", ["classic", "everything"])


# --- gradients against differences of a reference that shares no code with any engine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "combination" in metafunc.fixturenames:
        metafunc.parametrize("combination", range(200 if metafunc.config.getoption("--long") else 30))


@cache
def random_options(combination: int) -> tuple[Model, Tensors, Feed]:
    """A tiny two-layer model with every option drawn at random, and one step's rows for it."""
    rng = Random(combination)
    model = small(
        vocab_size=5,
        block_size=4,
        n_layer=2,
        init_std=0.4,
        position=rng.choice(["learned", "rope"]),
        rope_pairs=rng.choice(["interleaved", "half"]),
        rope_base=rng.choice([10.0, 10000.0]),
        activation=rng.choice(["relu", "relu2", "gelu"]),
        norm_embedding=rng.random() < 0.5,
        final_norm=rng.random() < 0.5,
        tie_embeddings=rng.random() < 0.5,
        qk_norm=rng.random() < 0.5,
        softcap=rng.choice([0.0, 2.0]),
        residual_init=rng.choice(["same", "scaled", "zero"]),
        dropout=rng.choice([0.0, 0.3]),
    )
    rows = documents(model, rng.choice([1, 2, 3]), seed=combination)
    scored = [[True, True, *(rng.random() < 0.7 for _ in row[2:])] for row in rows]
    feed = pack(
        rows, scored, rows_per_step=len(rows), micro_batch_size=rng.choice([0, 1]), seed=combination, first_step=5
    )
    return model, weights(model, seed=combination), feed


@cache
def differences(combination: int, h: float) -> Tensors:
    return reference.differences(*random_options(combination), h)


@every_rung
def test_gradient_is_the_limit_of_differences(rung: str, combination: int) -> None:
    model, tensors, feed = random_options(combination)
    loss, found = gradient(rung, model, tensors, feed)
    (expected,) = reference.losses(model, {name: a[None] for name, a in tensors.items()}, feed)
    assert loss == pytest.approx(expected, rel=1e-12)
    # A ReLU may bend within h of where we stand; a shorter step then stays on this side of the bend.
    assert any(apart(found, differences(combination, h)) < 1e-6 for h in (2e-5, 2e-6))


# --- every option against the definition


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rung", EXACT[1:])
def test_option_equals_the_definition(rung: str, case: str) -> None:
    found, expected = result(rung, case), result(DEFINITION, case)
    np.testing.assert_allclose(found.evaluated, expected.evaluated, rtol=FLOAT64)
    assert apart(found.gradient, expected.gradient) < FLOAT64
    np.testing.assert_allclose(found.losses, expected.losses, rtol=FLOAT64)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=FLOAT64)
    assert apart(found.after, expected.after) < FLOAT64


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("rung", "dtype"), ROUNDED)
def test_option_equals_the_definition_within_rounding(rung: str, dtype: str, case: str) -> None:
    found, expected = result(rung, case, dtype), result(DEFINITION, case)
    np.testing.assert_allclose(found.evaluated, expected.evaluated, rtol=LOSS[dtype])
    assert apart(found.gradient, expected.gradient, least=1) < GRADIENT[dtype]
    np.testing.assert_allclose(found.losses, expected.losses, rtol=LOSS[dtype])
    np.testing.assert_allclose(found.norms, expected.norms, rtol=GRADIENT[dtype])


@every_rung
def test_relay_ends_where_the_definition_does(rung: str) -> None:
    """All engines take two steps each in turn, this one first."""
    model, optim = small(**EVERYTHING.model), Optim(**EVERYTHING.optim)
    at = EXACT.index(rung)
    tensors, losses = weights(model), []
    feed = batches(model, EVERYTHING)
    turns = (EXACT[at:] + EXACT[:at]) * STEPS
    for i, runner in enumerate(turns[: STEPS // 2]):
        it = build(runner, model, optim)
        state, part = it.train(it.load(tensors), cut(feed, 2 * i, 2), learning_rates(optim, 2 * i, 2, STEPS))
        tensors = it.dump(state)
        losses += part.tolist()
    expected = result(DEFINITION, "everything")
    np.testing.assert_allclose(losses, expected.losses, rtol=FLOAT64)
    assert apart(tensors, expected.after) < FLOAT64


def cut(feed: Feed, first: int, steps: int) -> Feed:
    """Some steps of a feed as a feed of their own."""
    rows = feed.steps[first : first + steps + 1]
    low, high = feed.offsets[rows[0]], feed.offsets[rows[-1]]
    return Feed(
        feed.tokens[low:high],
        feed.offsets[rows[0] : rows[-1] + 1] - low,
        rows - rows[0],
        feed.scored[low:high],
        feed.first_step + first,
        feed.micro_batch_size,
        feed.seed,
    )


# --- the five verbs


@every_dtype
def test_dump_gives_back_what_was_loaded(rung: str, dtype: str) -> None:
    model = small(tie_embeddings=False)
    it = build(rung, model, dtype=dtype)
    tensors = {name: a.astype(np.float32) for name, a in moments(model).items()}  # numbers that every dtype holds
    dumped = it.dump(it.load(tensors))
    assert same(dumped, tensors)
    assert same(it.dump(it.load(dumped)), dumped)


@every_rung
def test_missing_moments_are_zero(rung: str) -> None:
    model = small()
    it = build(rung, model)
    dumped = it.dump(it.load(weights(model)))
    zeros = {part + name: np.zeros(a.shape) for part in ("m.", "v.") for name, a in weights(model).items()}
    assert same(dumped, {**weights(model), **zeros})


@every_rung
def test_dump_is_a_copy(rung: str) -> None:
    model = small()
    it = build(rung, model)
    state = it.load(moments(model))
    dumped = it.dump(state)
    for a in dumped.values():
        a += 1
    assert same(it.dump(state), moments(model))
    kept = {name: a.copy() for name, a in dumped.items()}
    it.train(state, batches(model, CASES["classic"], 2), np.full(2, 0.1))
    assert same(dumped, kept)


@every_rung
def test_load_takes_a_copy(rung: str) -> None:
    model = small()
    tensors = moments(model)
    kept = {name: a.copy() for name, a in tensors.items()}
    it = build(rung, model)
    it.train(it.load(tensors), batches(model, CASES["classic"], 2), np.full(2, 0.1))
    assert same(tensors, kept)


@every_dtype
def test_loss_and_logits_leave_the_state_as_it_was(rung: str, dtype: str) -> None:
    model = small(**EVERYTHING.model)
    it = build(rung, model, dtype=dtype)
    state = it.load(moments(model))
    before = it.dump(state)
    it.loss(state, batches(model, EVERYTHING, 2))
    it.logits(state, np.arange(4))
    assert same(it.dump(state), before)


@every_rung
@plain_and_everything
def test_resumes_bit_for_bit(rung: str, case: str) -> None:
    model, optim = small(**CASES[case].model), Optim(**CASES[case].optim)
    feed, lrs = batches(model, CASES[case], 6), learning_rates(optim, 0, 6, 6)
    it = build(rung, model, optim)
    state, losses = it.train(it.load(weights(model)), feed, lrs)
    once = it.dump(state)

    state, head = it.train(it.load(weights(model)), cut(feed, 0, 3), lrs[:3])
    anew = build(rung, model, optim)
    state, tail = anew.train(anew.load(it.dump(state)), cut(feed, 3, 3), lrs[3:])
    assert [*head, *tail] == losses.tolist()
    assert same(anew.dump(state), once)


@every_dtype
@plain_and_everything
def test_no_logit_sees_a_later_token(rung: str, dtype: str, case: str) -> None:
    model = small(**CASES[case].model)
    it = build(rung, model, dtype=dtype)
    state = it.load(weights(model))
    tokens = np.array([3, 1, 4, 1, 5, 2])
    before, _ = it.logits(state, tokens)
    for at in range(1, len(tokens)):
        changed = tokens.copy()
        changed[at:] = (changed[at:] + 1) % model.vocab
        after, _ = it.logits(state, changed)
        assert np.array_equal(before[:at], after[:at])
        assert not np.array_equal(before[at], after[at])


@every_rung
@plain_and_everything
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1), (4, 2), (1, 5), (3, 1, 2)], ids=str)
def test_prefill_equals_token_by_token_up_to_the_edge(rung: str, case: str, parts: tuple[int, ...]) -> None:
    model = small(**CASES[case].model)
    it = build(rung, model)
    state = it.load(weights(model))
    tokens = np.array([3, 1, 4, 1, 5, 2])
    assert len(tokens) == model.block_size
    whole, _ = it.logits(state, tokens)
    cache, rows = None, []
    for part in np.split(tokens, np.cumsum(parts)[:-1]):
        logits, cache = it.logits(state, part, cache)
        rows.append(logits)
    assert whole.shape == (model.block_size, model.vocab)
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=0, atol=1e-12 * np.abs(whole).max())


@every_rung
def test_caches_do_not_mix(rung: str) -> None:
    model = small(**EVERYTHING.model)
    it = build(rung, model)
    state = it.load(weights(model))
    alone, _ = it.logits(state, np.array([3, 1, 4]))
    _, one = it.logits(state, np.array([3, 1]))
    _, other = it.logits(state, np.array([5, 5, 5]))
    last, _ = it.logits(state, np.array([4]), one)
    it.logits(state, np.array([0]), other)
    np.testing.assert_allclose(last[0], alone[-1], rtol=1e-12)


@every_rung
@plain_and_everything
def test_loss_is_what_the_logits_say(rung: str, case: str) -> None:
    model = small(**CASES[case].model)
    it = build(rung, model)
    state = it.load(weights(model))
    row = [3, 1, 4, 1, 5, 2, 6]
    z, _ = it.logits(state, np.array(row[:-1]))
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    expected = -log_p[np.arange(6), row[1:]].mean()
    np.testing.assert_allclose(it.loss(state, pack([row])), expected, rtol=1e-12)


# --- batches


@every_rung
def test_order_of_rows_does_not_matter(rung: str) -> None:
    model = small()
    rows = documents(model, 4)
    loss, one = gradient(rung, model, weights(model), pack(rows, rows_per_step=4))
    back, other = gradient(rung, model, weights(model), pack(rows[::-1], rows_per_step=4))
    assert back == pytest.approx(loss, rel=1e-12)
    assert apart(other, one) < 1e-12


@every_rung
def test_padding_does_not_matter(rung: str) -> None:
    """A short row beside a long one counts as it does alone: the batch is the mean over its targets."""
    model = small(family="modern")
    rows = [[1, 2], [3, 1, 4, 1, 5, 2, 6], [6, 5, 4]]
    loss, together = gradient(rung, model, weights(model), pack(rows, rows_per_step=3))
    alone = [gradient(rung, model, weights(model), pack([row])) for row in rows]
    shares = [(len(row) - 1) / 9 for row in rows]
    assert loss == pytest.approx(sum(s * a for s, (a, _) in zip(shares, alone, strict=True)), rel=1e-12)
    mean = {name: sum(s * g[name] for s, (_, g) in zip(shares, alone, strict=True)) for name in together}
    assert apart(together, mean) < 1e-12


@every_rung
@plain_and_everything
@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_passes_add_up_to_one_batch(rung: str, case: str, micro_batch_size: int) -> None:
    """Three steps of four rows each: also the schedule and the bias corrections count steps, not passes."""
    model, optim = small(**CASES[case].model), Optim(**CASES[case].optim)
    rows, lrs = documents(model, 12), learning_rates(optim, 0, 3, 3)
    it = build(rung, model, optim)
    whole, losses = it.train(it.load(weights(model)), pack(rows, rows_per_step=4), lrs)
    expected = it.dump(whole)
    split, parts = it.train(
        it.load(weights(model)), pack(rows, rows_per_step=4, micro_batch_size=micro_batch_size), lrs
    )
    np.testing.assert_allclose(parts, losses, rtol=1e-12)
    assert apart(it.dump(split), expected) < 1e-9


@every_rung
def test_step_without_targets_costs_nothing(rung: str) -> None:
    model = small()
    loss, g = gradient(rung, model, weights(model), pack([[1, 2, 3]], [[False] * 3]))
    assert loss == 0
    assert not any(a.any() for a in g.values())


# --- dropout


@every_rung
def test_dropout_is_for_training_alone(rung: str) -> None:
    plain, dropping = small(), small(dropout=0.4)
    feed = pack(documents(plain, 3), rows_per_step=3, seed=7)
    it = build(rung, dropping)
    state = it.load(weights(plain))
    expected = build(rung, plain)
    evaluated = it.loss(state, feed)
    assert evaluated == expected.loss(expected.load(weights(plain)), feed)
    assert gradient(rung, dropping, weights(plain), feed)[0] != pytest.approx(evaluated[0], rel=1e-3)


@every_rung
def test_dropout_depends_on_seed_step_and_row(rung: str) -> None:
    model, row = small(dropout=0.4), [3, 1, 4, 1, 5]

    def loss(rows: list[list[int]], **where: int) -> float:
        return gradient(rung, model, weights(model), pack(rows, rows_per_step=len(rows), **where))[0]

    assert loss([row], seed=1) == loss([row], seed=1)
    found = {loss([row], seed=1), loss([row], seed=2), loss([row], seed=1, first_step=1), loss([row, row], seed=1)}
    assert len(found) == 4


# --- learning


@every_rung
@pytest.mark.parametrize("family", ["classic", "modern", "nanochat"])
def test_first_loss_is_that_of_guessing(rung: str, family: str) -> None:
    model = small(family=family, init_std=0.02)
    it = build(rung, model)
    losses = it.loss(it.load(weights(model)), batches(model, CASES["classic"]))
    np.testing.assert_allclose(losses, math.log(model.vocab), atol=0.2)
    assert losses.mean() == pytest.approx(math.log(model.vocab), abs=0.03)


@every_dtype
def test_one_batch_can_be_learnt_by_heart(rung: str, dtype: str) -> None:
    model, optim = small(n_layer=1, family="modern"), Optim(learning_rate=0.03)
    rows = [[0, 1, 2, 3], [0, 4, 5, 1]] * 60
    it = build(rung, model, optim, dtype)
    _, losses = it.train(it.load(weights(model)), pack(rows, rows_per_step=2), learning_rates(optim, 0, 60, 60))
    # 0 is followed by 1 and by 4: of six targets, two can only be guessed at even odds.
    assert losses[-1] < math.log(2) / 3 + 0.05


@every_rung
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_update_equals_torch_adamw(rung: str, decay: float) -> None:
    torch = pytest.importorskip("torch")
    optim = Optim(weight_decay=decay, beta1=0.8, beta2=0.95, eps=1e-6)
    model = small()
    tensors = weights(model)
    feed, lrs = batches(model, CASES["classic"], 5), learning_rates(optim, 0, 5, 5)
    it = build(rung, model, optim)
    state = it.load(tensors)
    theirs = {name: torch.nn.Parameter(torch.tensor(a)) for name, a in tensors.items()}
    adamw = torch.optim.AdamW(theirs.values(), betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    for i, lr in enumerate(lrs.tolist()):
        _, g = gradient(rung, model, it.dump(state) | zeros(tensors), cut(feed, i, 1))
        state, _ = it.train(state, cut(feed, i, 1), lrs[i : i + 1])
        for name, p in theirs.items():
            p.grad = torch.tensor(g[name])
        adamw.param_groups[0]["lr"] = lr
        adamw.step()
    ours = it.dump(state)
    assert apart({name: ours[name] for name in theirs}, {n: p.detach().numpy() for n, p in theirs.items()}) < 1e-12


def zeros(tensors: Tensors) -> Tensors:
    return {part + name: np.zeros(a.shape) for part in ("m.", "v.") for name, a in tensors.items()}


@every_rung
def test_clip_shortens_the_gradient_to_the_norm(rung: str) -> None:
    model, feed = small(), pack([[3, 1, 4, 1, 5, 2, 6]])
    _, g = gradient(rung, model, weights(model), feed)
    norm = math.sqrt(sum(float((a**2).sum()) for a in g.values()))

    def clipped(clip_norm: float) -> Tensors:
        it = build(rung, model, Optim(beta1=0.0, clip_norm=clip_norm))
        dumped = it.dump(it.train(it.load(weights(model)), feed, np.zeros(1))[0])
        return {name: dumped[f"m.{name}"] for name in g}

    assert apart(clipped(norm / 2), {name: a / 2 for name, a in g.items()}) < 1e-14
    assert same(clipped(norm * 1.001), g)


# --- numbers that are not


@every_rung
@pytest.mark.parametrize(
    ("where", "bad"),
    [(name, math.nan) for name in weights(small(n_layer=2))]  # a ReLU must not swallow it
    + [(name, bad) for name in ("wte", "lm_head", "layer1.attn_wo") for bad in (math.inf, -math.inf)],
)
def test_stops_before_an_update_that_is_not_finite(rung: str, where: str, bad: float) -> None:
    model = small(n_layer=2)
    tensors = moments(model)
    tensors[where][1, 1] = bad
    it = build(rung, model)
    if math.isnan(bad):
        assert np.isnan(it.loss(it.load(tensors), pack([[1, 1, 1]]))).all()
    state, losses = it.train(it.load(tensors), pack([[1, 1, 1], [2, 1, 3]]), np.full(2, 0.01))
    assert len(losses) == 1
    assert not math.isfinite(losses[0])
    assert same(it.dump(state), tensors)


@every_rung
def test_stops_where_the_loss_is_finite_and_the_gradients_norm_is_not(rung: str) -> None:
    model = small(activation="gelu")
    tensors = weights(model)
    tensors["layer0.mlp_fc1"][:] = 0  # the layer adds 0 times what follows, and its slope at 0 is a half
    tensors["layer0.mlp_fc2"][:] = 1e200  # the square of such a gradient is infinite
    it = build(rung, model)
    assert np.isfinite(it.loss(it.load(tensors), pack([[0, 2, 3]]))).all()
    state, losses = it.train(it.load(tensors), pack([[0, 2, 3], [2, 1, 3]]), np.full(2, 0.01))
    assert len(losses) == 1
    assert math.isnan(losses[0])
    dumped = it.dump(state)
    assert same({name: dumped[name] for name in tensors}, tensors)


@every_rung
def test_steps_before_and_after_a_refused_one_are_untouched_by_it(rung: str) -> None:
    """The row with token 5 meets a number that is not; without it the run is as if that row had never been."""
    model = small()
    tensors = weights(model)
    tensors["wte"][5] = math.nan
    good = [[1, 2, 3], [3, 2, 1, 0], [4, 0, 2]]
    it = build(rung, model)
    state, losses = it.train(it.load(tensors), pack(good), np.full(3, 0.01))
    expected = it.dump(state)

    again, part = it.train(it.load(tensors), pack([*good[:2], [0, 5, 1], good[2]]), np.full(4, 0.01))
    assert part[:2].tolist() == losses[:2].tolist()
    assert len(part) == 3
    assert not math.isfinite(part[2])
    again, rest = it.train(again, pack(good[2:], first_step=2), np.full(1, 0.01))
    assert rest[0] == losses[2]
    assert same(it.dump(again), expected)


@every_rung
def test_logits_too_far_apart_for_a_probability_still_give_a_loss(rung: str) -> None:
    """A probability that rounds to 0: a loss that is huge or infinite, never an exception."""
    model = small()
    tensors = weights(model)
    tensors["lm_head"] *= 1e4
    it = build(rung, model)
    assert it.loss(it.load(tensors), pack(documents(model, 8))).max() > 700
    _, losses = it.train(it.load(tensors), pack(documents(model, 8)), np.full(8, 0.01))
    assert len(losses) == 8 or not math.isfinite(losses[-1])


@every_rung
@pytest.mark.parametrize("activation", ["relu", "relu2", "gelu"])
def test_overflow_is_no_exception(rung: str, activation: str) -> None:
    model = small(activation=activation)
    tensors = moments(model)
    tensors["layer0.mlp_fc1"] *= 1e200
    tensors["layer0.mlp_fc2"] *= 1e200
    it = build(rung, model)
    assert not np.isfinite(it.loss(it.load(tensors), pack([[1, 2, 3]]))).any()
    state, losses = it.train(it.load(tensors), pack([[1, 2, 3]]), np.full(1, 0.01))
    assert not np.isfinite(losses).any()
    assert same(it.dump(state), tensors)


# --- the names run


RealData = Callable[[str], Path]


@cache
def names(path: Path) -> tuple[Model, Tensors, list[list[int]]]:
    docs = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rng = Random(42)
    rng.shuffle(docs)
    tokenizer = train("char", docs)
    model = Model(vocab_size=tokenizer.vocab_size)
    rows = [[tokenizer.bos, *tokenizer.encode(doc).tolist(), tokenizer.bos] for doc in docs[:1000]]
    return model, init_weights(model, rng), [row[: model.block_size + 1] for row in rows]


def names_losses(path: Path, rung: str, steps: int, dtype: str = "float64") -> np.ndarray:
    model, tensors, rows = names(path)
    it = build(rung, model, Optim(), dtype)
    return it.train(it.load(tensors), pack(rows[:steps]), learning_rates(Optim(), 0, steps, 1000))[1]


@every_rung
def test_golden_losses(real_data: RealData, rung: str, request: pytest.FixtureRequest) -> None:
    steps = 30 if rung in SLOW and not request.config.getoption("--long") else 1000
    found, expected = names_losses(real_data("names"), rung, steps), golden()[:steps]
    if rung == DEFINITION:
        assert [repr(x) for x in found.tolist()] == [repr(x) for x in expected.tolist()]
    np.testing.assert_allclose(found, expected, rtol=FLOAT64)


@pytest.mark.parametrize("rung", [rung for rung, dtype in ROUNDED if dtype == "float32"])
def test_golden_losses_in_float32(real_data: RealData, rung: str) -> None:
    losses = names_losses(real_data("names"), rung, 200, "float32")
    assert losses[199] == pytest.approx(golden()[199], rel=1e-4)
