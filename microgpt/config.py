"""The configuration of a run: model, optimizer, data, and the run itself.

Each section is checked key by key, and converts to and from TOML and plain dicts. Layers are merged before they are
checked: defaults < scenario < --size < --config file < flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from microgpt import older, scenarios
from microgpt.errors import UsageError, nearest
from microgpt.files import read_toml
from microgpt.limits import Bytes, Cap, Count, Fraction, Layers, Merges, Positive, Real, Samples, Seed, Size, Threads

# The keys that a family sets; keys given beside it override them.
FAMILIES: dict[str, dict[str, Any]] = {
    "classic": {"position": "learned", "activation": "relu", "final_norm": False, "qk_norm": False},
    "modern": {"position": "rope", "activation": "relu2", "final_norm": True, "qk_norm": False, "rope_pairs": "half"},
    "nanochat": {"position": "rope", "activation": "relu2", "final_norm": True, "qk_norm": True, "rope_pairs": "half"},
}

# The keys of a section in earlier layers that a key of a later layer removes, unless they are given beside it.
RESETS: dict[str, tuple[str, ...]] = {
    "path": ("dataset",),
    "dataset": ("path",),
    "tokenizer": ("tokenizer_size", "bpe_merges", "tokenizer_sample"),
    "tokenizer_size": ("bpe_merges",),
    "bpe_merges": ("tokenizer_size",),
    "val_path": ("val_fraction",),
    "val_fraction": ("val_path",),
    "steps": ("epochs",),
    "epochs": ("steps",),
}

# Keys of data that turn a text into documents, and documents into rows.
READING = {"format", "score", "chunk_size", "chunk_overlap", "fold_whitespace", "strip_gutenberg", "text_field"}
READING |= {"drop_empty", "skip_bad", "unk", "trailing_bos", "packing"}
SCHEDULE = ("learning_rate", "schedule", "warmup_steps", "min_learning_rate")  # keys of optim; the rest is Adam


def _family(given: Mapping[str, Any]) -> dict[str, Any]:
    return FAMILIES.get(str(given.get("family", "")), {})


class Section(BaseModel):
    """A section of the configuration: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("must be text, which run.toml can hold; rename a file whose name is not UTF-8")
        return value


def key(default: Any, description: str, **limits: Any) -> Any:
    """A configuration key: its default, and the help of its flag."""
    return Field(default, description=description, **limits)


class Model(Section):
    """The architecture: everything that determines the shapes and the arithmetic of the model."""

    family: Literal["classic", "modern", "nanochat"] = key("classic", "preset of position, activation and norms")
    vocab_size: Size | None = key(None, "tokens in the vocabulary (default: the tokenizer's)")
    block_size: Size = key(16, "context length in tokens")
    n_layer: Layers = key(1, "transformer blocks")
    n_head: Size = key(4, "attention heads; must divide n_embd")
    n_embd: Size = key(16, "width of the residual stream")
    position: Literal["learned", "rope"] = key("learned", "position encoding")
    rope_pairs: Literal["interleaved", "half"] = key("interleaved", "channel pairs that RoPE rotates")
    rope_base: float = key(10000.0, "base of RoPE's wavelengths", gt=1, le=1e12, allow_inf_nan=False)
    activation: Literal["relu", "relu2", "gelu"] = key("relu", "activation of the MLP")
    norm_embedding: bool = key(True, "RMSNorm after the embedding")
    final_norm: bool = key(False, "RMSNorm before the output head")
    tie_embeddings: bool = key(False, "share the token embedding with the output head")
    qk_norm: bool = key(False, "RMSNorm on queries and keys, per head")
    softcap: Cap = key(0.0, "soft cap of the logits, cap * tanh(logits / cap); 0 disables")
    init_std: Real = key(0.08, "standard deviation of the initial weights")
    residual_init: Literal["same", "zero", "scaled"] = key(
        "same", "initial attn_wo and mlp_fc2: same as the rest, zero, or scaled by 1 / sqrt(2 n_layer)"
    )
    dropout: Fraction = key(0.0, "dropout probability on the embedding and residual branches")

    @model_validator(mode="before")
    @classmethod
    def _expand_family(cls, given: Any) -> Any:
        return {**_family(given), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be divisible by n_head, got {self.n_embd} and {self.n_head}")
        if self.position == "rope" and self.head_dim % 2:
            raise ValueError(f"RoPE needs an even head size, got n_embd / n_head = {self.head_dim}")
        return self

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.n_embd // self.n_head

    @property
    def vocab(self) -> int:
        """The size of the vocabulary, which the tokenizer has set by now."""
        assert self.vocab_size is not None, "the tokenizer sets vocab_size before a model is built"
        return self.vocab_size


class Optim(Section):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) and the learning rate's schedule."""

    learning_rate: Real = key(0.01, "peak learning rate")
    beta1: Fraction = key(0.85, "decay rate of the first moment")
    beta2: Fraction = key(0.99, "decay rate of the second moment")
    eps: float = key(1e-8, "Adam's epsilon", gt=0, le=1, allow_inf_nan=False)
    weight_decay: Real = key(0.0, "decoupled weight decay (AdamW)")
    schedule: Literal["constant", "linear", "cosine"] = key("linear", "learning-rate schedule")
    warmup_steps: Count = key(0, "steps of linear warmup to the peak learning rate")
    min_learning_rate: Real = key(0.0, "final learning rate of the schedule")
    clip_norm: Real = key(0.0, "maximum global gradient norm; 0 disables")

    @model_validator(mode="after")
    def _check_floor(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must not exceed learning_rate, got {self.min_learning_rate} > {self.learning_rate}"
            )
        return self


class Data(Section):
    """The source of the text, and its way to rows of tokens."""

    dataset: str | None = key(None, "data set by name (microgpt data list)")
    path: str | None = key(None, "text file, folder or glob; - is standard input")
    format: Literal["auto", "lines", "paragraphs", "chunks", "jsonl", "chat"] = key(
        "auto", "how text is split into documents (auto: jsonl or chat for *.jsonl by its first line, else lines)"
    )
    score: Literal["assistant", "all"] = key(
        "assistant", "chat: tokens that count in the loss, of the answers or of every turn"
    )
    chunk_size: Positive = key(128, "characters per chunk")
    chunk_overlap: Count | None = key(None, "characters shared with the previous chunk (default: half)")
    fold_whitespace: bool = key(True, "chunks: replace each run of whitespace by one space")
    strip_gutenberg: bool = key(False, "remove Project Gutenberg's header and footer")
    text_field: str = key("text", "jsonl and Parquet: key or column of the text")
    drop_empty: bool = key(True, "drop documents without text")
    drop_duplicates: bool = key(False, "drop exact copies of earlier documents")
    skip_bad: bool = key(False, "drop unreadable documents; rejects.jsonl lists them")
    tokenizer: str = key("char", "char, word, bpe (or another kind), or the path of a tokenizer.json", min_length=1)
    tokenizer_size: Size | None = key(None, "vocabulary size that a word or bpe tokenizer learns")
    bpe_merges: Merges | None = key(None, "merges that a bpe tokenizer learns, in place of a vocabulary size")
    tokenizer_sample: Bytes | None = key(None, "learn the tokenizer from about this much of the text, such as 200MB")
    tokenizer_on: Literal["all", "train"] = key("all", "text that bpe learns from: all, or without what is held out")
    unk: bool = key(False, "add a token for text outside of the vocabulary")
    trailing_bos: bool = key(True, "end each document with BOS")
    packing: Literal["rows", "joined"] = key("rows", "one document per row, or documents joined to full contexts")
    val_path: str | None = key(None, "separate held-out text, read as the training text is")
    val_fraction: Fraction | None = key(
        None, "fraction of documents to hold out (default: 0.1 if eval_every is set, else 0)"
    )
    val_split: Literal["random", "end"] = key(
        "random", "part to hold out: documents drawn at random, or the end of the text (overlapping chunks: the end)"
    )
    split_seed: Seed = key(42, "seed of the documents that are held out")

    @property
    def overlap(self) -> int:
        """Characters that a chunk shares with the previous one."""
        return self.chunk_size // 2 if self.chunk_overlap is None else self.chunk_overlap

    @property
    def reading(self) -> dict[str, Any]:
        """The keys that say how a text is read, where they are not the default: they travel with a model's weights."""
        return self.model_dump(include=READING, exclude_defaults=True)

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.chunk_overlap is not None and self.chunk_overlap >= self.chunk_size:
            raise ValueError(
                f"chunk_overlap must be smaller than chunk_size, got {self.chunk_overlap} and {self.chunk_size}"
            )
        if self.tokenizer_size is not None and self.bpe_merges is not None:
            raise ValueError("tokenizer_size (--vocab-size) and bpe_merges say the same in two ways; set one of them")
        if self.val_path is not None and self.val_fraction:
            raise ValueError("val_path and val_fraction are two ways to hold text out; set one of them")
        return self


class Run(Section):
    """Length, batch, engine, checkpoints, evaluation and samples."""

    steps: Positive = key(1000, "optimizer steps in total")
    epochs: Annotated[float, Field(ge=0, le=1e6)] = key(0.0, "passes over the training rows, in place of --steps")
    batch_size: Size = key(1, "rows per micro-batch")
    grad_accum: Size = key(1, "micro-batches per optimizer step")
    seed: Seed = key(42, "seed of the shuffle, the initial weights, dropout and samples")
    engine: str = key("auto", "auto, or an engine of the ladder")
    dtype: Literal["auto", "float64", "float32", "bfloat16"] = key("auto", "floating-point type")
    device: str = key("auto", "auto, cpu, cuda or mps")
    threads: Threads = key(0, "threads of the engine; 0 chooses automatically")
    deterministic: bool = key(True, "on a GPU too the same bits each time, at some cost")
    checkpoint_every: Count = key(0, "steps between checkpoints; 0 saves at the end alone")
    keep: Positive = key(3, "newest checkpoints to keep")
    eval_every: Count = key(0, "steps between evaluations on held-out text, and one after the last step; 0 disables")
    patience: Count = key(0, "evaluations without a new best loss before training stops; 0 disables")
    sample_every: Count = key(0, "steps between samples; 0 disables")
    samples: Samples | None = key(None, "samples at the end of training (default: 20, or 3 exchanges of a chat model)")
    temperature: Real = key(0.5, "sampling temperature")


class Finetune(Section):
    """Fine-tuning: the base model that a run continues from, adapters and replay."""

    base: str | None = key(None, "path of the base model")
    lora_rank: Count = key(0, "rank of the LoRA adapters; 0 trains all weights")
    lora_alpha: Real = key(0.0, "LoRA alpha: adapters are scaled by alpha / rank; 0 means 2 rank")
    replay: Fraction = key(0.0, "fraction of rows from the base model's training data")

    @property
    def alpha(self) -> float:
        """The adapters' alpha."""
        return self.lora_alpha or 2.0 * self.lora_rank


Knot = tuple[Count, Annotated[float, Field(ge=0, le=1)]]  # a step, and the progress through the schedule there


class Phase(Section):
    """The learning-rate schedule of the steps before a run was extended to another total."""

    end_step: Positive  # the step that the next phase begins at
    steps: Positive  # the total of the run then
    schedule_from: Count
    optim: Optim
    pace: tuple[Knot, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_old_key(cls, given: Any) -> Any:
        return older.renamed(given, "until", "end_step")


class Config(Section):
    """All settings of a run, as `run.toml` holds them and a scenario file may set them."""

    name: str = "custom"
    description: str = ""
    model: Model = Model()
    optim: Optim = Optim()
    data: Data = Data()
    run: Run = Run()
    finetune: Finetune = Finetune()
    replay_data: Data | None = None  # what the base was trained on, where some of it is replayed
    schedule_from: Count = 0  # the step that the learning rate's schedule begins at; --extend sets it
    phases: tuple[Phase, ...] = ()  # schedules of the steps before the run was extended to another total
    max_seconds: Annotated[float, Field(ge=0, le=1e9)] = 0.0  # of the whole schedule, which ends with them; 0: no limit
    pace: tuple[Knot, ...] = ()  # where time decided: the progress through the schedule, linear between these steps
    plan: dict[str, int] = {}  # sizes and crossovers of the engine, by which another machine computes the same sums

    @model_validator(mode="before")
    @classmethod
    def _read_old_keys(cls, given: Any) -> Any:
        return older.upgraded(given)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "configuration") -> Config:
        """Check a nested dict. Raises UsageError with `where` and the key."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UsageError(f"{where}: {one_line(error)}", "E_CONFIG") from None

    @classmethod
    def of(cls, name: str, **sections: Mapping[str, Any]) -> Config:
        """A scenario by its name, with keys of some sections changed: `Config.of("names", run={"steps": 200})`.

        Raises UsageError.
        """
        return cls.from_dict(merge(scenarios.scenario(name), sections), name)

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """Read a whole configuration. Raises UsageError."""
        return cls.from_dict(read_toml(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """The nested dict without the keys that are not set (TOML knows no null)."""
        return self.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """The text that `from_toml` reads back to an equal configuration."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    def with_vocab(self, vocab_size: int) -> Config:
        """The same with the tokenizer's vocabulary. Raises UsageError if another size was asked for."""
        if self.model.vocab_size not in (None, vocab_size):
            raise UsageError(
                f"model.vocab_size: the tokenizer has {vocab_size} tokens, got {self.model.vocab_size}; leave it out, "
                f"or with --resume bring back the text that the run began with"
            )
        return self.replace(model={"vocab_size": vocab_size})

    def replace(self, **sections: Mapping[str, Any]) -> Config:
        """The same with some keys of some sections changed, checked again."""
        return Config.from_dict(merge(self.to_dict(), sections))


SECTIONS: dict[str, type[Section]] = {"model": Model, "optim": Optim, "data": Data, "run": Run}


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts, later layers over earlier ones. A family also resets the keys that it sets, and a key of RESETS
    removes the keys that it replaces."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                value = {**_family(value), **value} if key == "model" else value
                below = out.get(key)
                below = below if isinstance(below, Mapping) else {}
                taken_back = {lost for given in value for lost in RESETS.get(given, ())} - value.keys()
                out[key] = {**{name: old for name, old in below.items() if name not in taken_back}, **value}
            else:
                out[key] = value
    return out


def one_line(error: ValidationError, schema: type[BaseModel] = Config) -> str:
    """The first mistake of a ValidationError as 'section.key: sentence (got …)'."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = SECTIONS.get(str(first["loc"][0]), schema)
        return f"{where}: there is no such key; {nearest(str(first['loc'][-1]), section.model_fields)}"
    sentence = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "value_error":
        return f"{where}: {sentence}"
    got = repr(first["input"])
    return f"{where}: {sentence}, got {got if len(got) <= 60 else got[:59] + '…'}"
