"""The training loop; it knows no engine.

Everything that can be wrong with the configuration, the data or the engine shows in `prepare`, before anything
is written. The loop hands the engine whole blocks of steps, cut where something is due, and short enough that a
signal is answered within a quarter of a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from microgpt import checkpoint, fsio
from microgpt.config import Config
from microgpt.data.corpus import Corpus, build
from microgpt.data.documents import Documents, read_documents
from microgpt.engines import Choice, Engine, choose
from microgpt.errors import CheckpointError, NumericError, Stopped, UsageError
from microgpt.evaluate import held_out_loss
from microgpt.generate import Sampling, tokens
from microgpt.model import first_values
from microgpt.optim import learning_rates
from microgpt.runfolder import RunFolder, new_folder
from microgpt.signals import Wish, listen
from microgpt.tokenizers import Tokenizer
from microgpt.tokenizers import train as train_tokenizer

BLOCK_SECONDS = 0.1  # the length of a block of steps that is aimed at


class Report:
    """What a run tells on its way; this one keeps quiet."""

    def plan(self, job: Job) -> None:
        """Before anything starts."""

    def resumed(self, path: Path, step: int) -> None:
        """A checkpoint was taken up."""

    def progress(self, step: int, loss: float, tokens: int) -> None:
        """A block is done: steps so far, the mean loss of the block, its tokens."""

    def evaluated(self, step: int, loss: float) -> None:
        """A held-out loss was computed."""

    def sample(self, step: int, text: str) -> None:
        """A sample on the way."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""


@dataclass(frozen=True)
class Job:
    """Everything that a run needs, ready and checked."""

    config: Config  # resolved: with the vocabulary, the engine and its dtype
    documents: Documents
    tokenizer: Tokenizer
    corpus: Corpus
    choice: Choice
    rng: Random  # after the shuffle

    @property
    def rows(self) -> int:
        """Documents an optimizer step."""
        return self.config.run.batch_size * self.config.run.grad_accum


@dataclass(frozen=True)
class Trained:
    """What came of a run."""

    path: Path
    step: int
    loss: float | None  # of the last step
    val_loss: float | None  # the last held-out one
    seconds: float
    samples: list[str] = field(default_factory=list)


def prepare(config: Config) -> Job:
    """Read the data, learn the tokenizer, choose the engine. Writes nothing.

    Raises UsageError, DataError or MachineError.
    """
    documents = read_documents(config.data)
    tokenizer = train_tokenizer(config.data.tokenizer, documents.texts)
    rng = Random(config.run.seed)
    fraction = config.data.val_fraction
    if fraction is None:
        fraction = 0.1 if config.run.eval_every else 0.0
    corpus = build(documents.texts, tokenizer, rng, trailing_bos=config.data.trailing_bos, val_fraction=fraction)
    config = config.with_vocab(tokenizer.vocab_size)
    per_step = config.run.batch_size * config.run.grad_accum * corpus.mean_row(config.model.block_size)
    run = config.run
    choice = choose(
        config.model, config.optim, name=run.engine, dtype=run.dtype, device=run.device, tokens_per_step=per_step
    )
    config = config.replace(
        data={"val_fraction": fraction}, run={"engine": choice.name, "dtype": choice.dtype, "device": choice.device}
    )
    return Job(config, documents, tokenizer, corpus, choice, rng)


def train(
    config: Config,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    report: Report | None = None,
) -> Trained:
    """Train from the beginning, or with `resume` from the newest checkpoint in `out`, to `steps` or `stop_at`.

    Raises UsageError, DataError, CheckpointError, MachineError; NumericError where a loss or gradient is no
    longer finite; Stopped after a signal, when the state is saved.
    """
    report = report or Report()
    folder = RunFolder(Path(out) if out else new_folder(config.name))
    if resume:
        folder.config()
    elif folder.is_taken():
        raise UsageError(f"{folder.path}: holds a run already; go on with --resume, or choose another --out")
    if stop_at is not None and not 0 < stop_at <= config.run.steps:
        raise UsageError(f"--stop-at: must lie between 1 and --steps ({config.run.steps}), got {stop_at}")
    job = prepare(config)
    report.plan(job)
    with folder.lock(), listen() as wish:
        loop = Loop(job, folder, report, wish)
        with fsio.disk("be written", folder.path):
            if resume:
                loop.take_up()
            else:
                loop.begin()
            return loop.run(stop_at or config.run.steps)


class Loop:
    """A run in motion: the engine's state, the step it has reached, and what is due when."""

    def __init__(self, job: Job, folder: RunFolder, report: Report, wish: Wish) -> None:
        self.job, self.folder, self.report, self.wish = job, folder, report, wish
        config, run = job.config, job.config.run
        self.engine: Engine = job.choice.cls(
            config.model, config.optim, dtype=job.choice.dtype, device=job.choice.device, threads=run.threads
        )
        self.state: Any = None
        self.step = 0
        self.saved: int | None = None
        self.tokens = 0
        self.seconds = 0.0
        self.loss: float | None = None
        self.val_loss: float | None = None
        self.best: dict[str, Any] | None = None
        self.seconds_per_step = max(job.choice.seconds_per_step, 1e-7)
        self.validation = job.corpus.held_out(config.model.block_size)

    def begin(self) -> None:
        """Step 0: draw the first values."""
        self.state = self.engine.load(first_values(self.job.config.model, self.job.rng))
        self.generator = self.job.rng.getstate()
        self.folder.begin(self.job.config)

    def take_up(self) -> None:
        """Restore the newest checkpoint. Raises CheckpointError if it belongs to another run."""
        newest = checkpoint.read(self.folder.path)
        self._same_run(newest)
        state = newest.state
        self.state = self.engine.load(newest.tensors())
        self.step = self.saved = newest.step
        self.tokens, self.seconds, self.loss = state["tokens"], state["seconds"], state["loss"]
        self.val_loss, self.best = state["val_loss"], state["best"]
        version, keys, spare = state["generator"]
        self.generator = (version, tuple(keys), spare)
        self.folder.rewind(self.step)
        self.report.resumed(newest.path, self.step)

    def _same_run(self, saved: checkpoint.Checkpoint) -> None:
        job = self.job
        for what, ours, theirs in (
            ("data", job.corpus.fingerprint, saved.state.get("data", {}).get("sha256")),
            ("tokenizer", job.tokenizer.to_json(), saved.tokenizer.to_json()),
            ("model", job.config.model, saved.config.model),
            ("optim", job.config.optim, saved.config.optim),
            ("run.seed", job.config.run.seed, saved.config.run.seed),
            ("run.batch_size", job.rows, saved.config.run.batch_size * saved.config.run.grad_accum),
            ("run.engine", job.choice.name, saved.config.run.engine),
            ("run.dtype", job.choice.dtype, saved.config.run.dtype),
        ):
            if ours != theirs:
                raise CheckpointError(
                    f"{saved.path}: the {what} is not the one that this checkpoint was trained with, so going on would "
                    f"not be the same run; restore it, or start a new run with another --out",
                    "E_OTHER_RUN",
                )

    def run(self, target: int) -> Trained:
        """Step until `target`, doing what is due on the way; save and sample at the end."""
        run = self.job.config.run
        while self.step < target:
            self.block(target)
            if run.eval_every and self.step % run.eval_every == 0:
                self.evaluate()
            if run.sample_every and self.step % run.sample_every == 0:
                rng = Random(f"{run.seed} sample {self.step}")
                self.report.sample(self.step, self.sample(rng))
            if run.checkpoint_every and self.step % run.checkpoint_every == 0:
                self.save()
            if self.wish.number is not None:
                self.save()
                raise Stopped(f"stopped at step {self.step} of {run.steps}; everything is saved", self.wish.number)
        self.save()
        rng = Random()
        rng.setstate(self.generator)
        samples = [self.sample(rng) for _ in range(run.samples)] if target == run.steps else []
        return Trained(self.folder.path, self.step, self.loss, self.val_loss, self.seconds, samples)

    def block(self, target: int) -> None:
        """Train until something is due, or for about BLOCK_SECONDS. Raises NumericError."""
        config = self.job.config
        due = [target, *(self._next(every) for every in self._intervals() if every)]
        count = max(1, min(min(due) - self.step, int(BLOCK_SECONDS / self.seconds_per_step)))
        feed = self.job.corpus.feed(
            self.step,
            count,
            self.job.rows,
            config.model.block_size,
            rows_a_pass=config.run.batch_size,
            seed=config.run.seed,
        )
        lrs = learning_rates(config.optim, self.step, count, config.run.steps)
        start = time.perf_counter()
        self.state, losses = self.engine.train(self.state, feed, lrs)
        spent = time.perf_counter() - start
        healthy = len(losses) - (not np.isfinite(losses[-1]))
        self.seconds_per_step = max(spent / len(losses), 1e-7)
        self._log(feed, losses[:healthy], lrs, spent)
        if healthy < len(losses):
            self._diverged(float(losses[-1]))

    def _intervals(self) -> Sequence[int]:
        run = self.job.config.run
        return (run.checkpoint_every, run.eval_every, run.sample_every)

    def _next(self, every: int) -> int:
        return (self.step // every + 1) * every

    def _log(self, feed: Any, losses: np.ndarray, lrs: np.ndarray, spent: float) -> None:
        counts = np.add.reduceat(feed.scored, feed.offsets[feed.steps[:-1]]) if len(losses) else np.zeros(0, int)
        lines, before = [], self.tokens
        for i, (loss, lr) in enumerate(zip(losses.tolist(), lrs.tolist(), strict=False)):
            self.tokens += int(counts[i])
            seconds = self.seconds + spent * (i + 1) / len(losses)
            lines.append(
                f'{{"step": {self.step + i + 1}, "loss": {loss!r}, "lr": {lr!r}, "tokens": {self.tokens}, '
                f'"seconds": {seconds:.6f}}}\n'
            )
        fsio.append(self.folder.metrics_file, "".join(lines))
        self.step += len(losses)
        self.seconds += spent
        if len(losses):
            self.loss = float(losses[-1])
            self.report.progress(self.step, float(losses.mean()), self.tokens - before)

    def _diverged(self, loss: float) -> None:
        """Keep the last healthy state, and say where it went wrong."""
        self.save()
        weights = {name: a for name, a in self.engine.dump(self.state).items() if not name.startswith(("m.", "v."))}
        largest = max(weights, key=lambda name: float(np.abs(weights[name]).max()))
        corpus, rows = self.job.corpus, self.job.rows
        places = [int(corpus.order[(self.step * rows + i) % corpus.n_train]) + 1 for i in range(min(rows, 8))]
        what = "gradient" if np.isnan(loss) else "loss"
        raise NumericError(
            f"step {self.step + 1}: the {what} is not finite ({loss}), with document {', '.join(map(str, places))} and "
            f"the largest weight {np.abs(weights[largest]).max():.3g} in {largest}; stopped before the update, step "
            f"{self.step} is saved; try a smaller --learning-rate or --clip-norm 1"
        )

    def evaluate(self) -> None:
        """The held-out loss, into the metrics; remember the best step."""
        self.val_loss = held_out_loss(self.engine, self.state, self.validation)
        fsio.append(self.folder.metrics_file, f'{{"step": {self.step}, "val_loss": {self.val_loss!r}}}\n')
        self.report.evaluated(self.step, self.val_loss)
        if self.best is None or self.val_loss < self.best["val_loss"]:
            self.best = {"step": self.step, "val_loss": self.val_loss}
            if self.job.config.run.checkpoint_every:
                self.save()

    def sample(self, rng: Random) -> str:
        """One document from the model as it is."""
        tokenizer, config = self.job.tokenizer, self.job.config
        sampling = Sampling(config.run.temperature)
        drawn = tokens(self.engine, self.state, [tokenizer.bos], config.model.block_size, sampling, rng, tokenizer.bos)
        return tokenizer.decode(list(drawn))

    def save(self) -> None:
        """Write this step's checkpoint, unless it is there, then drop the oldest ones. Raises MachineError."""
        if self.saved == self.step:
            return
        job = self.job
        version, keys, spare = self.generator
        state = {
            "step": self.step,
            "seed": job.config.run.seed,
            "generator": [version, list(keys), spare],
            "data": {
                "sha256": job.corpus.fingerprint,
                "source": job.documents.source,
                "documents": job.corpus.n_documents,
                "next": self.step * job.rows % job.corpus.n_train,
            },
            "engine": job.choice.name,
            "dtype": job.choice.dtype,
            "threads": job.config.run.threads,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": self.loss,
            "val_loss": self.val_loss,
            "best": self.best,
        }
        tensors = self.engine.dump(self.state)
        if not all(np.isfinite(value).all() for value in tensors.values()):
            raise NumericError(f"step {self.step}: a weight or moment is not finite; not saved, older checkpoints stay")
        fsio.flush(self.folder.metrics_file)
        path = checkpoint.write(self.folder.checkpoints, job.config, job.tokenizer, tensors, state)
        self.saved = self.step
        checkpoint.rotate(self.folder.checkpoints, job.config.run.keep, self.best["step"] if self.best else None)
        self.report.saved(path)
