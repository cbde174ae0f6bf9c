"""Would the suite notice? Breaks a copy of the package in one place at a time and demands that a test fails.

    python -m tests.mutants [WORD ...]      all mutants, or those whose file or fault has one of the words

A mutant is a text that occurs once in a file and what it becomes. To add a rung, add its mutants to the table.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from microgpt.engines.ladder import LADDER

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """One fault: in which file under microgpt/, what is wrong, and the text that makes it so."""

    file: str
    fault: str
    old: str
    new: str

    @property
    def tests(self) -> list[str]:
        """The tests that ought to notice: the ladder's for this rung, or those of what all rungs share."""
        if self.file in OWN_TESTS:
            return OWN_TESTS[self.file]
        rung = self.file.removeprefix("engines/").split("/")[0].removesuffix(".py")
        if rung in LADDER:
            parts = ("adam", "attention", "bfloat16", "denormals", "engine", "matmul", "prefixes", "slots")
            more = [f"tests/engines/fused/test_{part}.py" for part in parts]
            if rung == "fused":  # the tests of whole sequences are those of every engine that has them
                return [
                    "tests/engines/test_ladder.py",
                    *more,
                    "tests/engines/test_generate.py",
                    "-k",
                    "fused or test_generate",
                ]
            own = [f"tests/engines/test_pytorch{part}.py" for part in ("", "_capture", "_lanes") if rung == "pytorch"]
            return ["tests/engines/test_ladder.py", *own, "-k", rung]
        return ["tests/test_optim.py", "tests/engines/common/test_dropout.py", "tests/engines/test_ladder.py"]


INT8_TESTS = ["tests/engines/fused/test_int8.py"]
THREADS = "experiments/threads.py"
OWN_TESTS = {
    THREADS: ["tests/experiments/test_threads.py"],
    "engines/common/int8.py": INT8_TESTS,
    "engines/fused/simd/int8.py": INT8_TESTS,
    "engines/fused/simd/tiles.py": INT8_TESTS,
    "engines/fused/simd/intrinsics.py": INT8_TESTS,
    "engines/fused/state.py": INT8_TESTS,
    "serve/admission.py": ["tests/serve/test_admission.py"],
    "serve/ending.py": ["tests/serve/test_ending.py", "-k", "though_the_end_hangs"],
    "serve/generation.py": ["tests/serve/test_scheduler.py", "-k", "seed"],
    "serve/guard.py": ["tests/serve/test_guard.py"],
    "serve/protocol.py": ["tests/serve/test_hostile.py", "-k", "4_mib or is_refused"],
    "serve/reply.py": ["tests/serve/test_scheduler.py", "-k", "read"],
    "serve/scheduler.py": ["tests/serve/test_scheduler.py"],
    "serve/sequence.py": ["tests/serve/test_scheduler.py", "-k", "stop or seed"],
}
SCALAR, FUNCTIONAL, TENSOR, MANUAL = (f"engines/{rung}.py" for rung in ("scalar", "functional", "tensor", "manual"))
PYTORCH, PYTORCH_MODEL, PYTORCH_FORMS, PYTORCH_STEP, PYTORCH_BATCHES, PYTORCH_LANES = (
    f"engines/pytorch/{part}.py" for part in ("__init__", "model", "forms", "step", "batches", "lanes")
)
ARRAYS, FUSED_TRAIN = "engines/common/arrays.py", "engines/fused/train.py"
FUSED_MODE, FUSED_COMPILER = "engines/fused/simd/float_mode.py", "engines/fused/jit/compiler.py"
INT8, FUSED_INT8, FUSED_TILES, FUSED_INTRINSICS, FUSED_STATE = (
    f"engines/{part}.py"
    for part in ("common/int8", "fused/simd/int8", "fused/simd/tiles", "fused/simd/intrinsics", "fused/state")
)
FUSED_DECODE, FUSED_PREFIXES, FUSED_SLOTS = (
    f"engines/fused/{part}.py" for part in ("attention_decode", "prefixes", "slots")
)
FUSED_ACTIVATIONS, FUSED_ATTENTION, FUSED_SHORT, FUSED_LINEAR, FUSED_PASSES, FUSED_KERNELS, FUSED_UPDATE, FUSED_STREAMS = (
    f"engines/fused/{part}.py"
    for part in ("activations", "attention", "attention_short", "linear", "passes", "train", "adam", "generate_batch")
)  # fmt: skip
MUTANTS = [
    Mutant(THREADS, "a run begins behind a signal", "if stop.number is not None or self.is_finished(number):", "if self.is_finished(number):"),
    Mutant(THREADS, "a run at work is not awaited", "while self.pool.is_at_work(number) and", "while False and"),
    Mutant(THREADS, "engines that hold the lock train in threads", "return LADDER[choice.name].unlocked and", "return"),
    Mutant(MANUAL, "no gradient into earlier keys", "ds.swapaxes(-1, -2) @ q,", "(ds * np.eye(*ds.shape[-2:], dtype=ds.dtype)).swapaxes(-1, -2) @ q,"),
    Mutant(MANUAL, "no gradient into earlier values", "p.swapaxes(-1, -2) @ dy", "(p * np.eye(*p.shape[-2:], dtype=p.dtype)).swapaxes(-1, -2) @ dy"),
    Mutant(MANUAL, "ReLU2's gradient lacks its factor", "dy * (2 * np.maximum(x, 0))", "dy * (2 * (x > 0))"),
    Mutant(MANUAL, "GELU's gradient lacks the cube", "(1 + 3 * 0.044715 * x * x)", "(1 + 0.044715 * x * x)"),
    Mutant(MANUAL, "softmax's gradient lacks the sum", 'dp -= np.einsum("...t,...t->...", dp, p)[..., None]', "pass"),
    Mutant(MANUAL, "RMSNorm's gradient lacks the mean", '/ y.shape[-1])) * r', "/ y.shape[-1]) * 0) * r"),
    Mutant(MANUAL, "RMSNorm's epsilon", "x.shape[-1] + 1e-5)", "x.shape[-1] + 1e-6)"),
    Mutant(MANUAL, "gradients of a tied head dropped", "dw[head])", 'dw[head] * (head != "wte"))'),
    Mutant(MANUAL, "a repeated token's gradients overwrite", 'np.add.at(dw["wte"], tokens.ravel(), dx)', 'dw["wte"][tokens.ravel()] += dx'),
    Mutant(MANUAL, "position gradients of the last row alone", "dx.reshape(B, T, -1).sum(axis=0)", "dx.reshape(B, T, -1)[-1]"),
    Mutant(MANUAL, "RoPE turns the wrong way", "x * cos + x[..., partner] * sin", "x * cos - x[..., partner] * sin"),
    Mutant(MANUAL, "RoPE's gradient turns like its values", "dy * cos - dy[..., partner] * sin", "dy * cos + dy[..., partner] * sin"),
    Mutant(ARRAYS, "RoPE pairs exchanged", 'if pairs == "interleaved"', 'if pairs != "interleaved"'),
    Mutant(ARRAYS, "the mask lets the next token through", "k=1 + S - T)", "k=2 + S - T)"),
    Mutant(MANUAL, "no mask", "scores += causal_mask(", "0 * causal_mask("),
    Mutant(MANUAL, "attention is not scaled", "scores *= q.shape[-1] ** -0.5", "pass"),
    Mutant(MANUAL, "the cache is off by one", "cache.length += T", "cache.length += max(1, T - 1)"),
    Mutant(MANUAL, "decoding starts at position 0 again", "first = cache.length if cache else 0", "first = 0"),
    Mutant(MANUAL, "softcap's gradient lacks the square", "(trace.logits / model.softcap) ** 2", "(trace.logits / model.softcap)"),
    Mutant(MANUAL, "no dropout on the embedding's way back", "dx = dx * drops[0]", "pass"),
    Mutant(MANUAL, "dropout while evaluating", "logits = forward(self.model, state.w, rows.inputs).logits", "logits = forward(self.model, state.w, rows.inputs, drops=dropout_masks(self.model, feed, rows, 0, self.dtype)).logits"),
    Mutant(ARRAYS, "dropout repeats in every micro-batch", "rows.first_row + b", "b"),
    Mutant(MANUAL, "gradients are not cleared", 'flat["dw"][:] = 0', "pass"),
    Mutant(MANUAL, "no clip", "rules.clip_scale(norm, self.optim.clip_norm)", "1.0"),
    Mutant(MANUAL, "steps are counted from the feed's start", "step = feed.first_step + i", "step = i"),
    Mutant(MANUAL, "an update that is not finite", "if not math.isfinite(losses[-1]):", "if False:"),
    Mutant(MANUAL, "dump forgets the moments", '("v", "v."))\n        return', '("m", "v."))\n        return'),
    Mutant(MANUAL, "load forgets the moments", '("m", "m."), ("v", "v.")):\n', '):\n'),
    Mutant(MANUAL, "dump hands out the state itself", "a.copy() for part", "a for part"),
    Mutant(SCALAR, "ReLU swallows NaN", "max(self.data, 0.0)", "max(0.0, self.data)"),
    Mutant(SCALAR, "log's gradient", "(1 / self.data,)", "(1.0,)"),
    Mutant(SCALAR, "gradients of a refused step stay", "self._forget(state.w)\n", "pass\n"),
    Mutant(SCALAR, "the mean of all positions", "(1 / max(1, len(losses)))", "(1 / max(1, feed.targets(i) + 1))"),
    Mutant(SCALAR, "RoPE turns the wrong way", "x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos", "x[a] * cos + x[b] * sin, x[b] * cos - x[a] * sin"),
    Mutant(SCALAR, "a norm of the values too", "q, k = (by_head(y, position, model) for y in (q, k))", "q, k, v = (by_head(y, position, model) for y in (q, k, v))"),
    Mutant(FUNCTIONAL, "one gradient of two uses", "plus(a[name], b[name]) for name", "a[name] for name"),
    Mutant(FUNCTIONAL, "the residual's own way back dropped", "return plus(dy, dx), grads", "return dx, grads"),
    Mutant(FUNCTIONAL, "softmax's gradient lacks the sum", "pi * (dpi - along) for", "pi * dpi for"),
    Mutant(FUNCTIONAL, "ReLU2's gradient lacks its factor", "(x * x, 2 * x)", "(x * x, x)"),
    Mutant(FUNCTIONAL, "RoPE's gradient turns like its values", "turn(row, -first - t)", "turn(row, first + t)"),
    Mutant(FUNCTIONAL, "queries see one key less after a cache", "k[: earlier + t]", "k[: max(t, earlier + t - (earlier > 0))]"),
    Mutant(FUNCTIONAL, "a repeated token's gradients overwrite", "if j == i)", "if j == i and index.index(j) == i)"),
    Mutant(FUNCTIONAL, "an update that is not finite", "if not math.isfinite(loss):", "if False:"),
    Mutant(TENSOR, "a node keeps its last gradient alone", "child.grad = child.grad + grad", "child.grad = grad"),
    Mutant(TENSOR, "a repeated token's gradients overwrite", "np.add.at(da, index, dy)", "da[index] = dy"),
    Mutant(TENSOR, "a product's second gradient", "a.swapaxes(-1, -2) @ dy))", "0 * (a.swapaxes(-1, -2) @ dy)))"),
    Mutant(TENSOR, "a cache forgets", "self.keys[layer] = np.concatenate([self.keys[layer], k.data], axis=2)", "self.keys[layer] = np.concatenate([self.keys[layer] * 0, k.data], axis=2)"),
    Mutant(TENSOR, "positions restart after a cache", "first = cache.keys[0].shape[2] if cache else 0", "first = 0"),
    Mutant(TENSOR, "gradients of a refused step stay", "p.grad = 0.0\n", "p.grad = p.grad * 0.0\n"),
    Mutant(PYTORCH_MODEL, "the mask of a continued row", ".triu(1 + S - T)", ".triu(1)"),
    Mutant(PYTORCH, "passes overwrite", "g[at].add_(each)", "g[at].copy_(each)"),
    Mutant(PYTORCH_MODEL, "GELU without its tanh", 'approximate="tanh"', 'approximate="none"'),
    Mutant(PYTORCH_MODEL, "no norm of queries and keys", "return rmsnorm(x) if model.qk_norm else x", "return x"),
    Mutant(PYTORCH_MODEL, "padded tokens are likely", "[..., : model.vocab]", ""),
    Mutant(PYTORCH_FORMS, "a mask drops what it keeps", ">= least", "< least"),
    Mutant(PYTORCH_STEP, "a recorded step keeps its first row", "self.rows.first_row.fill_(rows.first_row)", "pass"),
    Mutant(PYTORCH_BATCHES, "padding keeps the micro-batch before", "array[:] = 0", "pass"),
    Mutant(FUSED_TRAIN, "pieces of a sum are no whole vectors", "plan.near // W * W", "plan.near"),
    Mutant(PYTORCH_LANES, "one seed for all lanes", "dropout(self.model, seed,", "dropout(self.model, self.seeds[0],"),
    Mutant(PYTORCH_LANES, "a lane ends all", "isfinite().all(0)", "isfinite().all()"),
    Mutant(PYTORCH_LANES, "masks of the first micro-batch", "self.first_row[number] = batch.first_row", "pass"),
    Mutant(PYTORCH, "the device's numbers are shared", 'view.to("cpu", copy=True)', 'view.to("cpu")'),
    Mutant(FUSED_SHORT, "earlier keys get the last query's gradient alone", "store(dk, s, fma(ds, qt, load(dk, s)))", "store(dk, s, ds * qt)"),
    Mutant(FUSED_ATTENTION, "gradients reach a later key", "store(ds, t * ld, first(before + t + 1, d, 0.0))", "store(ds, t * ld, first(before + t + 2, d, 0.0))"),
    Mutant(FUSED_ATTENTION, "RoPE's gradient turns like its values", "store(a, t, va * vcos + vb * vsin)", "store(a, t, va * vcos - vb * vsin)"),
    Mutant(FUSED_ACTIVATIONS, "ReLU2's gradient lacks its factor", "positive(v, 2.0 * v * load(dy, i))", "positive(v, 2.0 * load(dy, i))"),
    Mutant(FUSED_PASSES, "RMSNorm's gradient lacks the mean", "- load(y, at + i) * mean) * r[n]", "- load(y, at + i) * mean * 0.0) * r[n]"),
    Mutant(FUSED_PASSES, "a waiting update's norm lacks the embedding", "norm + squares(dw, c.layer)", "norm"),
    Mutant(FUSED_KERNELS, "an update that waits is lost in a step without rows", "c.layer if due else c.n)", "c.layer)"),
    Mutant(FUSED_UPDATE, "no correction of the second moment", "fma(sqrt(square), fix, eps)", "fma(sqrt(square), 1.0, eps)"),
    Mutant(FUSED_LINEAR, "a row lies on the weights kept for the next", "workspace + a.fan_out * K", "workspace + a.fan_in * K"),
    Mutant(FUSED_LINEAR, "a single row lies on its own weights", "o * K if more else workspace", "o * K if more else columns"),
    Mutant(FUSED_LINEAR, "later positions overwrite a weight's gradient", "width, adding or n > 0)", "width, adding)"),
    Mutant(FUSED_STREAMS, "a stream sees the sequence before it", "older = float(newest - s) - mine", "older = none"),
    Mutant(FUSED_STREAMS, "a key in the next slot", "i) * FOUR + slot % FOUR) * W", "i) * FOUR + (slot + 1) % FOUR) * W"),
    Mutant(FUSED_DECODE, "a new key in the next position", "cache.block + past % W", "cache.block + (past + 1) % W"),
    Mutant(FUSED_SLOTS, "a prompt's last token is computed alone", "if cache.length + T + 1 == len(prompt):", "if False:"),
    Mutant(FUSED_PREFIXES, "the end of a dropped prompt stays", "self.caches[row] = -1, prompt, cache", "self.caches[row] = self.tokens[row], prompt, cache"),
    Mutant(FUSED_MODE, "denormal results are kept", "0x1F80 | 1 << 15 | 1 << 6", "0x1F80 | 1 << 6"),
    Mutant(FUSED_MODE, "denormal operands are kept", "0x1F80 | 1 << 15 | 1 << 6", "0x1F80 | 1 << 15"),
    Mutant(FUSED_MODE, "the caller's mode is lost", "write(b, before, machine)", "pass"),
    Mutant(FUSED_COMPILER, "denormals are kept", "number is types.float32)", "False)"),
    Mutant(FUSED_COMPILER, "float64 flushes them too", "number is types.float32)", "True)"),
    Mutant(INT8, "int8: rounded towards zero", "np.rint(values / scale)", "np.trunc(values / scale)"),
    Mutant(INT8, "int8: half of a row's range is cut", "top / 127, 1)", "top / 254, 1)"),
    Mutant(INT8, "int8: the scale of a column instead of a row's", "axis=1", "axis=0"),
    Mutant(INT8, "int8: a row of zeros has no scale", "np.where(top > 0, top / 127, 1)", "(top / 127)"),
    Mutant(FUSED_STATE, "int8: every panel has the scales of the first", "scale[i : i + width].reshape(-1)", "scale[:width].reshape(-1)"),
    Mutant(FUSED_INT8, "int8: a panel begins where the scales of the one before stand", "INT(more)", "INT(0)"),
    Mutant(FUSED_INT8, "int8: a matrix begins where it would without scales", "b.add(b.sdiv(at, INT(2)), b.mul(b.sdiv(at, INT(W)), INT(SCALE_ROWS)))", "b.sdiv(at, INT(2))"),
    Mutant(FUSED_INT8, "int8: a row of zeros has no scale for its activations", "splat(x, TINY)", "splat(x, 0.0)"),
    Mutant(FUSED_INT8, "int8: a sum may overflow", "min(MAX_INT16, MAX_INT32 // (LARGEST * n))", "MAX_INT16"),
    Mutant(FUSED_INT8, "int8: a row's largest magnitude is that of its last vector", "high = larger(high, load(x, i))", "high = larger(splat(x, TINY), load(x, i))"),
    Mutant(FUSED_INT8, "int8: what is not a number is no magnitude", 'b.icmp_signed("<", b.bitcast(x, kind), b.bitcast(y, kind))', 'b.fcmp_ordered("<", x, y)'),
    Mutant(FUSED_TILES, "int8: sums are not scaled by columns", "b.fmul(b.sitofp(end[m, j], kind), scales[j])", "b.sitofp(end[m, j], kind)"),
    Mutant(FUSED_TILES, "int8: sums are not scaled by rows", "b.fmul(b.fmul(b.sitofp(end[m, j], kind), scales[j]), scale)", "b.fmul(b.sitofp(end[m, j], kind), scales[j])"),
    Mutant(FUSED_TILES, "int8: a row's scale comes first", "b.fmul(b.fmul(b.sitofp(end[m, j], kind), scales[j]), scale)", "b.fmul(b.fmul(b.sitofp(end[m, j], kind), scale), scales[j])"),
    Mutant(FUSED_TILES, "int8: all rows of a tile have the scale of the first", "b.gep(a_rows[m], [b.mul(K, along)])", "b.gep(a_rows[0], [b.mul(K, along)])"),
    Mutant(FUSED_TILES, "int8: the second vector has the first one's scales", "b.add(w_at[j], INT(j % PAIR * kind.count))", "b.add(w_at[j], INT(-(j % PAIR) * kind.count))"),
    Mutant(FUSED_TILES, "int8: one row's later panels have the scales of the first", "b.add(w_at[j], INT(j % PAIR * kind.count))", "b.add(w_at[j % PAIR], INT(j % PAIR * kind.count))"),
    Mutant(FUSED_INTRINSICS, "int8: the sign is lost", "b.sext(y, halves)", "b.zext(y, halves)"),
    Mutant("optim.py", "a schedule off by one", "progress = (step - warmup)", "progress = (step + 1 - warmup)"),
    Mutant("optim.py", "no floor", "rates = low + (high - low) * (1 - progress)", "rates = high * (1 - progress)"),
    Mutant("optim.py", "no bias correction", "m_hat = m / (1 - optim.beta1 ** (step + 1))", "m_hat = m"),
    Mutant("optim.py", "bias correction off by one", "v_hat = v / (1 - optim.beta2 ** (step + 1))", "v_hat = v / (1 - optim.beta2 ** (step + 2))"),
    Mutant("optim.py", "decay goes through the moments", "m = optim.beta1 * m", "g = g + optim.weight_decay * p\n    m = optim.beta1 * m"),
    Mutant("optim.py", "clip to the square", "clip_norm / norm if", "clip_norm / norm**2 if"),
    Mutant("optim.py", "a gradient that is not finite passes", "return loss if math.isfinite(norm) or not math.isfinite(loss) else math.nan", "return loss"),
    Mutant("engines/common/dropout.py", "kept numbers are not scaled up", "1.0 / (1.0 - rate))", "1.0)"),
    Mutant("engines/common/dropout.py", "rows drop alike", "(seed >> 32, step, row, place)", "(seed >> 32, step, place)"),
    Mutant("feed.py", "padding is scored", "scored = self.scored[at + 1] & inside", "scored = self.scored[at + 1] | ~inside"),
    Mutant("feed.py", "each pass takes its own mean", "weight = 1.0 / max(1, self.targets(step))", "weight = 1.0 / max(1, self.targets(step)) / -(-n // (self.micro_batch_size or n))"),
    Mutant("feed.py", "the mask's place is off by one", "self.scored[at + 1] & inside", "self.scored[at] & inside"),
    Mutant("serve/admission.py", "a client's next request goes before the others", "turns  # behind the others", "turns; self._waiting.move_to_end(client, last=False)"),
    Mutant("serve/admission.py", "the queue has no end", "if self.waiting >= self._queue:", "if False:"),
    Mutant("serve/admission.py", "a client that leaves in its turn keeps the place", "self.leave()  # it was its turn when its client left", "pass"),
    Mutant("serve/admission.py", "whoever waits is not told of the end", "turn.set_exception(Closing())", "turn.cancel()"),
    Mutant("serve/ending.py", "the last deadline is not kept", "self._over.wait()", "return"),
    Mutant("serve/generation.py", "seeds do not wrap", "(first + number) % SEEDS", "first + number"),
    Mutant("serve/generation.py", "all choices have the first one's seed", "(first + number) % SEEDS", "first"),
    Mutant("serve/guard.py", "any Host", "if not host or (host[1] not in self._hosts and host[1] != local):", "if not host:"),
    Mutant("serve/guard.py", "any Origin", "if len(origins) > 1 or origins[0] not in own:", "if len(origins) > 1:"),
    Mutant("serve/guard.py", "two Origins", "if len(origins) > 1 or origins[0] not in own:", "if origins[0] not in own:"),
    Mutant("serve/guard.py", "no key is asked for", 'if self._key and scope["path"] not in self._public:', "if False:"),
    Mutant("serve/guard.py", "keys are compared in a time that tells", "not hmac.compare_digest(key_of(given_keys[0]), self._key)", "key_of(given_keys[0]) != self._key"),
    Mutant("serve/protocol.py", "a body in chunks is not counted", "if self._body_bytes > BODY_BYTES:", "if False:"),
    Mutant("serve/protocol.py", "a length of a byte too many", "if length > BODY_BYTES:", "if length > BODY_BYTES + 1:"),
    Mutant("serve/reply.py", "texts that nobody reads go on", "return len(self._events) > MOST_UNREAD", "return False"),
    Mutant("serve/scheduler.py", "a client that leaves keeps its slots", "for running in gone:", "for running in ():"),
    Mutant("serve/scheduler.py", "a reply of many texts takes all slots", "if waiting.begun and side >= self._most_side:", "if False:"),
    Mutant("serve/scheduler.py", "a long prompt holds up the others", "if time.monotonic() >= deadline:", "if False:"),
    Mutant("serve/scheduler.py", "the worker runs ahead", "self._news.wait_for(self._in_pace, STALL_SECONDS)", "pass"),
    Mutant("serve/scheduler.py", "a lack of memory for one prompt ends all", "except Exception as error:  # such as a lack of memory for its cache", "except ZeroDivisionError as error:  #"),
    Mutant("serve/scheduler.py", "each token is handed over alone", "waits = goes_on and", "waits = False and"),
    Mutant("serve/scheduler.py", "an error of one text ends all", "running.text.finished = True", "raise error"),
    Mutant("serve/sequence.py", "stops are ignored", "UntilStop(request.stops)", "UntilStop(())"),
    Mutant("serve/sequence.py", "all texts draw alike", "Random(request.seed)", "Random(0)"),
]  # fmt: skip


def caught(mutant: Mutant, tests: Sequence[str] | None = None) -> str | None:
    """The first test that fails with the mutant in place, or None if it survives."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("microgpt", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / "microgpt" / mutant.file
        text = target.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.file}: {mutant.old!r} occurs {text.count(mutant.old)} times; mend the table")
        target.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        # The copy's folder comes first on the path of `python -m`, before any installed package.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            *(tests or mutant.tests),
        ]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise ValueError(f"{mutant.file}: {mutant.fault}: nothing could be tested\n{done.stdout}{done.stderr}")
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
        return failed[1] if failed else None


def main(words: list[str]) -> int:
    """Try the mutants; the exit status is the number that survive."""
    chosen = [m for m in MUTANTS if not words or any(word in f"{m.file} {m.fault}" for word in words)]
    survivors = 0
    for mutant in chosen:
        by = caught(mutant)
        survivors += by is None
        print(f"{'caught  ' if by else 'SURVIVED'}  {mutant.file}: {mutant.fault}  ({by})", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught")
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
