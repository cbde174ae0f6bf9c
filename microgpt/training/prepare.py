"""Prepare a run: read the data, learn the tokenizer, choose the engine.

`prepare` finds every error in the configuration, the data and the engine before anything is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from microgpt.config import Config, Model
from microgpt.data.conversations import Chats
from microgpt.data.corpus import Corpus, TrainingRows
from microgpt.data.documents import Documents
from microgpt.data.load import load
from microgpt.data.mix import Mix
from microgpt.data.sources import keep_stdin
from microgpt.engines.common.hardware import memory
from microgpt.engines.ladder import LADDER, Choice, calibrate, choose, plan
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed
from microgpt.model import n_params
from microgpt.progress import ProgressCallback, no_progress
from microgpt.runs import checkpoint
from microgpt.terminal import count
from microgpt.tokenizers import KINDS, Tokenizer


@dataclass(frozen=True)
class RunSetup:
    """Everything that a run needs, validated."""

    config: Config  # resolved: with the vocabulary, the engine and its dtype
    documents: Documents | Chats
    tokenizer: Tokenizer
    corpus: Corpus
    training: TrainingRows  # the corpus, or a mix of it with the base's
    validation: Corpus  # its held-out documents are evaluated; the corpus, or a text of its own
    choice: Choice
    rng: Random  # after the shuffle
    source: checkpoint.Checkpoint | None  # the run's own checkpoint, or the base of a fine-tuning

    @property
    def rows_per_step(self) -> int:
        """Rows per optimizer step."""
        return self.config.run.batch_size * self.config.run.grad_accum

    def feed(self, first_step: int, n_steps: int) -> Feed:
        """The rows of some steps."""
        run, block = self.config.run, self.config.model.block_size
        feed = self.training.feed(first_step, n_steps, self.rows_per_step, block)
        return replace(feed, micro_batch_size=run.batch_size, seed=run.seed)


def prepare(
    config: Config,
    progress: ProgressCallback = no_progress,
    source: checkpoint.Checkpoint | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    measure: bool = False,
    verify: bool = False,
    processes: int = 1,
    tune: bool = True,
) -> RunSetup:
    """Read the data, learn the tokenizer, choose the engine. Writes nothing but the user's cache.

    With `measure`, engines whose speed on this machine is not known are measured before one is chosen, with `tune` also
    an engine's plan, before a long run; with `verify` no text counts as known by the sizes and times of its files.
    A run that continues from a checkpoint (`source`, or the base of a fine-tuning) uses the tokenizer of that; one that
    is given a `tokenizer` reads no checkpoint. `processes` train together.
    Raises UsageError, DataError, CheckpointError or MachineError.
    """
    run, data = config.run, config.data
    if data.path == "-":
        data = data.model_copy(update={"path": str(keep_stdin())})
    fraction = data.val_fraction
    if fraction is None:
        fraction = 0.1 if run.eval_every and not data.val_path else 0.0
    if run.eval_every and not (fraction or data.val_path):
        raise UsageError(
            "--eval-every: nothing is held out; set --val-fraction above 0, or name a file with --val-data"
        )
    if run.patience and not run.eval_every:
        raise UsageError("--patience: counts held-out losses; set --eval-every as well")
    if source is None and tokenizer is None:
        _refuse_unused(config)
        source = checkpoint.read(Path(config.finetune.base), weights=True) if config.finetune.base else None
    require_memory(config)
    rng, block = Random(run.seed), config.model.block_size
    data = data.model_copy(update={"val_fraction": fraction})
    text = load(data, block, source.tokenizer if source else tokenizer, progress, verify=verify)
    tokenizer, data = text.tokenizer, text.data
    corpus = text.split(rng, fraction)
    training: TrainingRows = corpus
    validation = corpus
    if data.val_path:
        held_out = data.model_copy(update={"path": data.val_path, "drop_duplicates": False})
        validation = load(held_out, block, tokenizer, progress, verify=verify).held_out()
    if config.finetune.replay and config.replay_data:
        old = load(config.replay_data, block, tokenizer, progress, verify=verify).split(rng, 0.0)
        training = Mix(corpus, old, config.finetune.replay)
    config = config.with_vocab(tokenizer.vocab_size)
    rows = run.batch_size * run.grad_accum
    if rows < processes:
        raise UsageError(
            f"--processes {processes}: a step has {count(rows, 'row')} (--batch-size times --grad-accum), fewer than "
            f"processes; start {rows} or fewer, or set a larger --batch-size"
        )
    if run.epochs:
        config = config.replace(run={"steps": max(1, math.ceil(run.epochs * corpus.n_rows(block) / rows))})
    if measure and processes == 1:
        calibrate(run.engine, run.dtype, run.device, progress)
    tokens = rows * corpus.mean_row(block)
    choice = choose(
        config.model,
        config.optim,
        name=run.engine,
        dtype=run.dtype,
        device=run.device,
        tokens_per_step=tokens,
        rows_per_step=rows,
        shared=processes > 1,
    )
    config = config.replace(
        data={**data.model_dump(exclude_none=True), "val_fraction": fraction},
        run={"engine": choice.name, "dtype": choice.dtype, "device": choice.device},
    )
    seconds = choice.seconds_per_step * run.steps if measure and tune else 0.0
    planned = config.plan or plan(choice, config.model, seconds, progress)
    config = config.model_copy(update={"plan": planned if LADDER[choice.name].planned else {}})
    require_memory(config, tokens)
    return RunSetup(config, text.documents, tokenizer, corpus, training, validation, choice, rng, source)


BYTES_PER_NUMBER = {"float64": 8, "float32": 4}  # bfloat16: weights and moments are kept in float32
ACTIVATION_BYTES = {"float64": 8, "bfloat16": 2}
BYTES_PER_TOKEN = 16  # of a step's rows: token, target, mask and offsets


def require_memory(config: Config, tokens_per_step: float = 0.0) -> None:
    """Raise MachineError for a run that cannot fit into the memory, before anything of it is built.

    Counted is the least that the engine needs: weights, gradients and two moments (with adapters, and on another device
    than the CPU, the weights alone), the rows of a step, and the activations of a micro-batch where the engine keeps
    them. A vocabulary that is not known yet counts as one token.
    """
    most, run, model = memory(), config.run, config.model
    on_cpu = run.device in ("auto", "cpu")
    parameters = n_params(model.model_copy(update={"vocab_size": model.vocab_size or 1}))
    copies = 4 if on_cpu and not config.finetune.lora_rank else 1
    parts = {
        "--n-layer, --n-embd, --vocab-size or --block-size": parameters * copies * BYTES_PER_NUMBER.get(run.dtype, 4),
        "--batch-size or --grad-accum": max(tokens_per_step, run.batch_size * run.grad_accum) * BYTES_PER_TOKEN,
    }
    info = LADDER.get(run.engine)
    if info and info.kept and on_cpu:
        per_position = info.kept * model.n_layer * model.n_embd + 2 * (model.vocab_size or 1)  # logits, probabilities
        activations = tokens_per_step / run.grad_accum * per_position * ACTIVATION_BYTES.get(run.dtype, 4)
        parts["--batch-size (a larger --grad-accum computes the same)"] = activations
    if most is None or sum(parts.values()) <= most:
        return
    raise MachineError(
        f"model of {parameters:,} parameters: needs at least {_gigabytes(sum(parts.values()))} of memory (weights, "
        f"gradients, moments, rows and activations), and this process may use {_gigabytes(most)}; "
        f"lower {max(parts, key=parts.__getitem__)}",
        "E_MEMORY",
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _refuse_unused(config: Config) -> None:
    """Raise UsageError for an option that another one leaves without effect."""
    model, data, tuned = config.model, config.data, config.finetune
    if model.rope_base != Model().rope_base and model.position != "rope":
        raise UsageError("--rope-base: positions are learned, so it has no effect; set --position rope as well")
    if tuned.lora_alpha and not tuned.lora_rank:
        raise UsageError("--lora-alpha: scales adapters, and there are none; set --lora-rank as well")
    if data.tokenizer not in KINDS and (data.tokenizer_size or data.bpe_merges is not None or data.tokenizer_sample):
        flags = {"--vocab-size": data.tokenizer_size, "--tokenizer-sample": data.tokenizer_sample}
        flag = next((flag for flag, value in flags.items() if value), "--bpe-merges")
        raise UsageError(
            f"{flag}: the vocabulary of --tokenizer {data.tokenizer} is in that file; leave one of them out"
        )
