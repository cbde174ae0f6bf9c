"""The training loop, the same for every engine.

The engine gets whole blocks of steps, which end where an evaluation, sample or checkpoint is due and are short enough
that a signal is answered within a quarter of a second.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from microgpt import files
from microgpt.data import chat_template
from microgpt.engines import lora
from microgpt.engines.processes import ALONE, Processes
from microgpt.errors import CheckpointError, NumericError, Stopped
from microgpt.feed import Feed
from microgpt.inference.evaluate import held_out_loss
from microgpt.inference.language_model import LanguageModel
from microgpt.model import Tensors, init_weights, n_params
from microgpt.optim import rates_of_run
from microgpt.runs import checkpoint, sample_log
from microgpt.runs.folder import RunFolder, folder_beside, moved
from microgpt.signals import StopRequest
from microgpt.training import metrics, samples
from microgpt.training.divergence import divergence
from microgpt.training.pace import Pace
from microgpt.training.prepare import RunSetup
from microgpt.training.report import Callbacks, Trained
from microgpt.training.resume import SavedRun, with_past

RECENT = 50  # steps whose mean loss is reported; a block's length would depend on the clock
BLOCK_SECONDS = 0.1  # intended duration of a block of steps


class Trainer:
    """A run in progress: the engine's state, the step reached, and the schedule of evaluations and checkpoints."""

    def __init__(
        self,
        setup: RunSetup,
        folder: RunFolder,
        callbacks: Callbacks,
        stop: StopRequest,
        deadline: float | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.setup, self.folder, self.callbacks, self.stop, self.deadline = setup, folder, callbacks, stop, deadline
        self.processes, config = processes, setup.config
        options: dict[str, Any] = {"tuned": config.finetune, "plan": config.plan, "processes": processes}
        options |= config.run.model_dump(include={"threads", "deterministic"})
        self.engine = setup.choice.build(config.model, config.optim, **options)
        self.seconds_to_save = 0.5 + 24 * n_params(config.model) / 1e8  # until it is measured
        self.state: Any = None
        self.step = self.target = self.evaluated = 0  # reached, to be reached, and evaluated last
        self.saved: int | None = None
        self.tokens, self.seconds = 0, 0.0
        self.loss: float | None = None
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.val_loss: float | None = None
        self.bits_per_byte: float | None = None  # of the held-out text, with val_loss
        self.best: dict[str, Any] | None = None
        self.seconds_per_step = max(setup.choice.seconds_per_step, BLOCK_SECONDS / 16)  # until it is measured
        self.seconds_to_evaluate = 0.0  # until it is measured
        self.pace = Pace(config.schedule_from, config.run.steps, config.pace)

    def begin(self) -> None:
        """Start at step 0 from initialized weights, or from those of the base; write run.toml."""
        setup, model = self.setup, self.setup.config.model
        tensors = setup.source.weights() if setup.source else init_weights(model, setup.rng)
        if setup.config.finetune.lora_rank:
            tensors = tensors | lora.init_adapters(model, setup.config.finetune.lora_rank, setup.rng)
        self.state = self.engine.load(self.processes.share_tensors(tensors))
        self.generator = self.setup.rng.getstate()
        self.folder.begin(self.setup.config)
        if rejects := self.setup.documents.rejects:
            lines = (files.to_json(reject._asdict(), indent=None) for reject in rejects)
            files.write_atomic(self.folder.rejects_file, b"".join(lines))

    def restore(self, saved: SavedRun) -> None:
        """Continue from a checkpoint, after `prepare_resumed` has compared the two runs."""
        self.take(saved.state, saved.tensors)
        self.folder.go_on(self.setup.config, self.step, self.evaluated)
        self.callbacks.resumed(saved.checkpoint.path, self.step)

    def take(self, state: checkpoint.TrainerState, tensors: Tensors) -> None:
        """Take over what a checkpoint holds."""
        self.state = self.engine.load(self.processes.share_tensors(tensors))
        self.step = self.saved = state.step
        self.tokens, self.seconds, self.loss = state.tokens, state.seconds, state.loss
        self.val_loss, self.bits_per_byte, self.evaluated = state.val_loss, state.bits_per_byte, state.evaluated
        self.best = state.best.model_dump() if state.best else None
        self.generator = state.rng().getstate()

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs besides the engine's tensors, as JSON: the content of trainer/state.json."""
        setup, (version, keys, spare) = self.setup, self.generator
        return {
            "step": self.step,
            "seed": setup.config.run.seed,
            "generator": [version, list(keys), spare],
            "data": {
                "sha256": setup.training.fingerprint,
                "held_out_sha256": setup.validation.fingerprint,
                "source": setup.documents.source,
                "documents": setup.corpus.n_documents,
                "next": self.step * setup.rows_per_step % setup.corpus.n_rows(setup.config.model.block_size),
            },
            "engine": setup.choice.name,
            "dtype": setup.choice.dtype,
            "threads": setup.config.run.threads,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": self.loss,
            "val_loss": self.val_loss,
            "bits_per_byte": self.bits_per_byte,
            "evaluated": self.evaluated,
            "best": self.best,
        }

    def train(self, target: int) -> None:
        """Train until step `target`, with the evaluations, samples and checkpoints on the way; save."""
        run = self.setup.config.run
        self.target = target
        if self.deadline is not None:
            self.pace.start(self.step, self.deadline - self._seconds_to_end())
        if self.step < target:
            self.evaluate_if_due()  # a signal may have cut it short
        while self.step < self.target and not self.is_stale():
            self.train_block(self.target)
            self.evaluate_if_due()
            if self._is_due(run.sample_every):
                self.sample()
            if self._is_due(run.checkpoint_every):
                self.save()
            self.pause()
            if self.step < self.target and self._out_of_time():
                self._finish()
        self.save()

    def sample(self) -> None:
        """Draw one sample; a signal ends it, and is answered after it."""
        drawn, rng = list[str](), Random(f"{self.setup.config.run.seed} sample {self.step}")
        with suppress(Stopped):
            drawn = self._draw(rng, 1)
        self.processes.share()
        for text in drawn:
            self.callbacks.sample(self.step, text)

    def finish(self) -> Trained:
        """The result, with the samples at the end of a run. Of several processes the first alone draws them."""
        rng = Random()
        rng.setstate(self.generator)
        run = self.setup.config.run
        stale = self.is_stale() and self.step < self.target
        if stale:
            self.callbacks.stopped_early(self.step, self.best or {})
        texts, finished = [], stale or self.step == run.steps
        if finished:
            if self.setup.config.max_seconds:  # the steps ended it; run.toml then repeats them whatever the clock says
                self.folder.write(self.setup.config.model_copy(update={"max_seconds": 0.0}))
            self.load_best()
            texts = self._draw(rng, samples.how_many(self.model()), final=True)
        best = self.best["step"] if self.best else None
        verb = "chat" if chat_template.can_chat(self.setup.tokenizer) else "generate"
        path, losses = self.folder.path, (self.loss, self.val_loss, self.bits_per_byte)
        return Trained(path, self.step, *losses, self.seconds, finished, stale, best, texts, verb)

    def load_best(self) -> None:
        """Load the weights of the best checkpoint, where it was kept: the last samples are then those of generate."""
        if not self.best or self.best["step"] == self.step:
            return
        with suppress(CheckpointError, OSError):  # the run has its result without them
            saved = checkpoint.read(self.folder.path, "best")
            self.state = self.engine.load(saved.base() | saved.adapters())
            self.callbacks.uses_best(checkpoint.Selection("best", self.best["step"], self.step))

    def is_stale(self) -> bool:
        """Whether the last `patience` held-out losses brought no new best."""
        run = self.setup.config.run
        return bool(run.patience and self.best and self.step - self.best["step"] >= run.patience * run.eval_every)

    def _seconds_to_end(self) -> float:
        """About how long the run goes on after it last looked at the clock: a step, evaluating, saving, samples."""
        sampling = samples.how_many(self.model()) * self.seconds_per_step / self.setup.rows_per_step
        last = max(2 * self.seconds_per_step, BLOCK_SECONDS)
        return 2 * self.seconds_to_save + self.seconds_to_evaluate + sampling + last

    def _out_of_time(self) -> bool:
        """Whether the schedule has ended with its time, or another block of steps would be too late."""
        if self.deadline is None:
            return False
        is_late = self.pace.is_done(self.step) or time.monotonic() + self._seconds_to_end() > self.deadline
        return bool(self.processes.decide(is_late)[0])

    def _finish(self) -> None:
        """Let the run end at this step: the time is over. run.toml then repeats it whatever the clock says."""
        config = self.setup.config
        if not self.pace.knots:  # the steps decided the rates so far
            config = with_past(config, config, self.step)
        run = config.run.model_copy(update={"steps": self.step})
        config = config.model_copy(update={"run": run, "max_seconds": 0.0})
        self.setup, self.target = replace(self.setup, config=config), self.step
        self.evaluate_if_due()
        self.save()
        self.require_place()
        self.folder.write(config)

    def pause(self) -> None:
        """If a signal came to any process, save and raise Stopped. Called often enough to answer in 0.25 seconds."""
        if number := self.processes.largest(self.stop.number or 0):
            self.save()
            self.require_no_signal(number)

    def require_no_signal(self, number: int | None = None) -> None:
        """Raise Stopped for a signal's number, or for that of a signal to this process."""
        if number := number or self.stop.number:
            raise Stopped(f"stopped at step {self.step} of {self.setup.config.run.steps}; everything is saved", number)

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    def train_block(self, target: int) -> None:
        """Train until something is due, or for about BLOCK_SECONDS. Raises NumericError."""
        config = self.setup.config
        intervals = (config.run.checkpoint_every, config.run.eval_every, config.run.sample_every)
        end = min([target, *((self.step // every + 1) * every for every in intervals if every)])
        if self.deadline is not None and self.processes.leads:
            self.pace.end = self.deadline - self._seconds_to_end()
            end = min(end, self.pace.next_knot(self.step, self.seconds_per_step))
            if self.pace.knots and tuple(self.pace.knots[-1]) not in config.pace[-1:]:
                past = config if config.pace else with_past(config, config, self.step)  # the steps decided until now
                now = {"pace": tuple(self.pace.knots), "max_seconds": config.max_seconds}
                config = past.model_copy(update=now)
                self.setup = replace(self.setup, config=config)
        count = max(1, min(end - self.step, int(BLOCK_SECONDS / self.seconds_per_step)))
        count = self.processes.agree(count)
        feed = self.setup.feed(self.step, count)
        lrs = rates_of_run(config, self.step, count)
        lrs = lrs if self.deadline is None else np.array(self.processes.decide(*lrs.tolist()))
        norms = np.zeros(count)
        start = time.perf_counter()
        self.state, losses = self.engine.train(self.state, feed, lrs, norms)
        spent = time.perf_counter() - start
        healthy = len(losses) - (not np.isfinite(losses[-1]))
        self.seconds_per_step = max(spent / len(losses), 1e-7)
        self._log(feed, losses[:healthy], lrs, norms, spent)
        if healthy < len(losses):
            self._diverged(float(losses[-1]))

    def _log(self, feed: Feed, losses: np.ndarray, lrs: np.ndarray, norms: np.ndarray, spent: float) -> None:
        before, end = self.tokens, self.seconds + spent
        lines = metrics.step_lines(feed, losses, lrs, norms, self.tokens, (self.seconds, end))
        self.tokens += feed.part(0, len(losses)).n_targets
        self.step, self.seconds = self.step + len(losses), end
        if len(losses):
            self.loss = float(losses[-1])
            self.recent.extend(losses.tolist())
        self.append(lines)
        if len(losses):
            if self.deadline is not None and self.pace.knots:
                self.callbacks.paced(self.pace.progress(self.step), max(0.0, self.deadline - time.monotonic()))
            self.callbacks.progress(self.step, fmean(self.recent), self.tokens - before)

    def append(self, lines: str) -> None:
        """Append to the metrics."""
        self.require_place()
        files.append_text(self.folder.metrics_file, lines)

    def _diverged(self, loss: float) -> None:
        """Save the state before the step that diverged. Raises NumericError with the documents of that step."""
        self.save()
        raise divergence(self.setup, self.step, self.engine.dump(self.state), loss)

    def evaluate_if_due(self) -> None:
        """Evaluate every `eval_every` steps and after the last; one that a signal cut short is due after --resume."""
        run = self.setup.config.run
        at_the_end = bool(run.eval_every) and self.step == run.steps
        if (at_the_end or self._is_due(run.eval_every)) and self.evaluated != self.step:
            self.evaluate()

    def evaluate(self) -> None:
        """Append the held-out loss to the metrics; save where it is the best so far."""
        text, began = self.setup.validation, time.monotonic()
        rows = text.held_out(self.setup.config.model.block_size)
        pause = self.pause if self.step < self.target else (lambda: None)  # at the end nothing would repeat it
        self.val_loss, targets = held_out_loss(self.engine, self.state, rows, pause, self.processes.agree)
        self.bits_per_byte = text.held_out_size.bits_per_byte(self.val_loss * targets)
        self.evaluated, self.seconds_to_evaluate = self.step, time.monotonic() - began
        found = {"step": self.step, "val_loss": self.val_loss, "bits_per_byte": self.bits_per_byte}
        self.append(metrics.evaluation_line(found))
        self.callbacks.evaluated(self.step, self.val_loss, self.bits_per_byte)
        if self.best is None or self.val_loss < self.best["val_loss"]:
            self.best = found
            if self.setup.config.run.checkpoint_every or self.setup.config.run.patience:
                self.save()

    def model(self) -> LanguageModel:
        """The present model, to generate with."""
        return LanguageModel(self.folder.path, self.setup.config, self.setup.tokenizer, self.engine, self.state)

    def _draw(self, rng: Random, n: int, *, final: bool = False) -> list[str]:
        """Draw samples and append them to samples.jsonl."""
        texts = samples.draw(self.model(), self.setup.corpus, rng, n, self.require_no_signal)
        if self.processes.size == 1:
            self.require_place()
        if self.folder.is_in_place():
            sample_log.add(self.folder.samples_file, self.step, texts, final=final)
        return texts

    def require_place(self) -> None:
        """If the run's folder was moved, removed or replaced, save in a new one and raise MachineError with its name.

        Called before each write, so that nothing is written into a folder that another trainer made meanwhile.
        """
        if self.processes.decide(self.folder.is_in_place())[0]:
            return
        lost, self.folder, self.saved = self.folder.path, RunFolder(folder_beside(self.folder.path)), None
        self.move()
        raise moved(lost, self.folder.path, self.step)

    def move(self) -> None:
        """Save in a new folder."""
        with self.folder.lock():
            self.folder.begin(self.setup.config)
            self.save()

    def save(self) -> None:
        """Write this step's checkpoint unless it exists, then remove the oldest ones. Raises NumericError, OSError."""
        if self.saved == self.step:
            return
        self.require_place()
        setup, began = self.setup, time.monotonic()
        tensors = self.engine.dump(self.state)
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise NumericError(f"step {self.step}: {name} is not finite; not saved, older checkpoints stay")
        files.flush(self.folder.metrics_file)
        path = checkpoint.write(self.folder.checkpoints, setup.config, setup.tokenizer, tensors, self.state_dict())
        self.saved, self.seconds_to_save = self.step, time.monotonic() - began
        self.processes.share()
        checkpoint.rotate(self.folder.checkpoints, setup.config.run.keep, self.best["step"] if self.best else None)
        self.callbacks.saved(path)
