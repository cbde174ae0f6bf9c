"""The configuration: what a model is, how it is trained, on what, and how the run is kept.

Four sections, each checked key by key, to and from TOML and plain dicts. Layers are merged before they are
checked: defaults < scenario file < --config file < flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from microgpt import scenarios
from microgpt.errors import UsageError, nearest
from microgpt.files import read_toml

Positive = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

# What a family sets; every key given beside it wins.
FAMILIES: dict[str, dict[str, Any]] = {
    "classic": {"position": "learned", "activation": "relu", "final_norm": False, "qk_norm": False},
    "modern": {
        "position": "rope",
        "activation": "relu2",
        "final_norm": True,
        "qk_norm": False,
        "rope_pairs": "half",
    },
    "nanochat": {
        "position": "rope",
        "activation": "relu2",
        "final_norm": True,
        "qk_norm": True,
        "rope_pairs": "half",
    },
}


# What a key given in a later layer takes back of earlier ones, unless it is given beside it.
RESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "data": {
        "path": ("dataset",),
        "dataset": ("path",),
        "tokenizer": ("tokenizer_size", "bpe_merges"),
        "tokenizer_size": ("bpe_merges",),
        "bpe_merges": ("tokenizer_size",),
        "val_path": ("val_fraction",),
        "val_fraction": ("val_path",),
    }
}

SCHEDULE = ("learning_rate", "schedule", "warmup_steps", "min_learning_rate")  # keys of optim; the rest is Adam

# One dial: shape, learning rate and batch that go together (--size).
SIZES: dict[str, dict[str, Any]] = {
    name: {
        "model": {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "block_size": block_size},
        "optim": {"learning_rate": learning_rate},
        "run": {"batch_size": batch_size},
    }
    for name, n_layer, n_embd, n_head, block_size, learning_rate, batch_size in (
        ("nano", 1, 16, 4, 16, 1e-2, 1),
        ("micro", 2, 32, 4, 64, 5e-3, 4),
        ("mini", 4, 64, 4, 64, 3e-3, 8),
        ("small", 4, 128, 4, 128, 2e-3, 16),
        ("medium", 6, 384, 6, 256, 1e-3, 32),
    )
}


def _family(given: Mapping[str, Any]) -> dict[str, Any]:
    return FAMILIES.get(str(given.get("family", "")), {})


def _renamed(given: Any, old: str, new: str) -> Any:
    """The mapping with a key of files that an older version wrote under its present name."""
    if not isinstance(given, Mapping) or old not in given or new in given:
        return given
    return {new if key == old else key: value for key, value in given.items()}


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    """The architecture: everything that fixes the shapes and the arithmetic of the model."""

    family: Annotated[Literal["classic", "modern", "nanochat"], Field(description="options set together")] = "classic"
    vocab_size: Annotated[Positive | None, Field(description="tokens (default: the tokenizer's)")] = None
    block_size: Annotated[Positive, Field(description="context length in tokens")] = 16
    n_layer: Annotated[Positive, Field(description="transformer blocks")] = 1
    n_head: Annotated[Positive, Field(description="attention heads; divides n_embd")] = 4
    n_embd: Annotated[Positive, Field(description="width of the residual stream")] = 16
    position: Annotated[Literal["learned", "rope"], Field(description="how positions are told apart")] = "learned"
    rope_pairs: Annotated[Literal["interleaved", "half"], Field(description="which channels RoPE rotates together")] = (
        "interleaved"
    )
    rope_base: Annotated[float, Field(gt=1, description="RoPE's longest wavelength / 2 pi")] = 10000.0
    activation: Annotated[Literal["relu", "relu2", "gelu"], Field(description="the MLP's activation")] = "relu"
    norm_embedding: Annotated[bool, Field(description="RMSNorm right after the embedding")] = True
    final_norm: Annotated[bool, Field(description="RMSNorm before the head")] = False
    tie_embeddings: Annotated[bool, Field(description="the head uses wte")] = False
    qk_norm: Annotated[bool, Field(description="RMSNorm on queries and keys, per head")] = False
    softcap: Annotated[Rate, Field(description="logits = cap * tanh(logits / cap); 0 is off")] = 0.0
    init_std: Annotated[Rate, Field(description="standard deviation of the first values")] = 0.08
    residual_init: Annotated[
        Literal["same", "zero", "scaled"],
        Field(description="attn_wo and mlp_fc2: same, 0 or /sqrt(2 n_layer)"),
    ] = "same"
    dropout: Annotated[Fraction, Field(description="dropped share of embedding and residual branches")] = 0.0

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
        """Channels a head."""
        return self.n_embd // self.n_head

    @property
    def vocab(self) -> int:
        """The vocabulary's size, which must be known by now."""
        assert self.vocab_size is not None, "the tokenizer sets vocab_size before a model is built"
        return self.vocab_size


class Optim(Section):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) and the learning rate's schedule."""

    learning_rate: Annotated[Rate, Field(description="highest learning rate")] = 0.01
    beta1: Annotated[Fraction, Field(description="decay of the first moment")] = 0.85
    beta2: Annotated[Fraction, Field(description="decay of the second moment")] = 0.99
    eps: Annotated[float, Field(gt=0, description="Adam's epsilon")] = 1e-8
    weight_decay: Annotated[Rate, Field(description="decoupled decay (AdamW)")] = 0.0
    schedule: Annotated[Literal["constant", "linear", "cosine"], Field(description="how the learning rate falls")] = (
        "linear"
    )
    warmup_steps: Annotated[Count, Field(description="steps from 0 to the highest rate")] = 0
    min_learning_rate: Annotated[Rate, Field(description="where the schedule ends")] = 0.0
    clip_norm: Annotated[Rate, Field(description="longest global gradient; 0 is off")] = 0.0

    @model_validator(mode="after")
    def _check_floor(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must not exceed learning_rate, "
                f"got {self.min_learning_rate} and {self.learning_rate}"
            )
        return self


class Data(Section):
    """Where the text comes from and how it becomes rows of tokens."""

    dataset: Annotated[str | None, Field(description="a data set by name (microgpt data list)")] = None
    path: Annotated[str | None, Field(description="a file, folder or glob instead; - is standard input")] = None
    format: Annotated[
        Literal["auto", "lines", "paragraphs", "chunks", "jsonl", "chat"],
        Field(description="what a document is (auto: jsonl or chat for *.jsonl by its first line, else lines)"),
    ] = "auto"
    score: Annotated[
        Literal["assistant", "all"], Field(description="chat: the loss counts the answers alone, or every turn")
    ] = "assistant"
    chunk_size: Annotated[Positive, Field(description="characters a chunk")] = 128
    chunk_overlap: Annotated[Count | None, Field(description="shared with the chunk before (default: half)")] = None
    fold_whitespace: Annotated[bool, Field(description="chunks: any whitespace becomes one space")] = True
    strip_gutenberg: Annotated[bool, Field(description="drop Project Gutenberg's header and footer")] = False
    text_field: Annotated[str, Field(description="jsonl: the key that holds the text")] = "text"
    drop_empty: Annotated[bool, Field(description="leave out documents without text")] = True
    drop_duplicates: Annotated[bool, Field(description="leave out exact copies of earlier documents")] = False
    skip_bad: Annotated[bool, Field(description="leave out what cannot be read; listed in rejects.jsonl")] = False
    tokenizer: Annotated[
        str, Field(description="char, word, bpe (or another kind), or a tokenizer.json", min_length=1)
    ] = "char"
    tokenizer_size: Annotated[Positive | None, Field(description="tokens that a word or bpe tokenizer learns")] = None
    bpe_merges: Annotated[Count | None, Field(description="merges that a bpe tokenizer learns, instead")] = None
    unk: Annotated[bool, Field(description="a token for what the tokenizer's vocabulary lacks")] = False
    trailing_bos: Annotated[bool, Field(description="a document ends with BOS")] = True
    packing: Annotated[
        Literal["rows", "joined"], Field(description="a document a row, or documents joined to full contexts")
    ] = "rows"
    val_path: Annotated[str | None, Field(description="held-out text of its own, read as the training text is")] = None
    val_fraction: Annotated[
        Fraction | None, Field(description="held-out documents (default: 0.1 if eval_every is set, else 0)")
    ] = None

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
    """How long, how fast, with what, and what is kept."""

    steps: Annotated[Positive, Field(description="optimizer steps in all")] = 1000
    batch_size: Annotated[Positive, Field(description="rows a pass")] = 1
    grad_accum: Annotated[Positive, Field(description="passes an optimizer step")] = 1
    seed: Annotated[Count, Field(description="one seed, one model")] = 42
    engine: Annotated[str, Field(description="auto, or a rung of the ladder")] = "auto"
    dtype: Annotated[Literal["auto", "float64", "float32", "bfloat16"], Field(description="numbers of the engine")] = (
        "auto"
    )
    device: Annotated[str, Field(description="auto, cpu, cuda, mps")] = "auto"
    threads: Annotated[Count, Field(description="threads of the engine; 0 lets it choose")] = 0
    checkpoint_every: Annotated[Count, Field(description="steps between checkpoints; 0: at the end")] = 0
    keep: Annotated[Positive, Field(description="newest checkpoints to keep")] = 3
    eval_every: Annotated[Count, Field(description="steps between held-out losses; 0 is off")] = 0
    patience: Annotated[
        Count, Field(description="stop after this many held-out losses without a new best; 0: never")
    ] = 0
    sample_every: Annotated[Count, Field(description="steps between samples; 0 is off")] = 0
    samples: Annotated[Count, Field(description="samples at the end")] = 20
    temperature: Annotated[Rate, Field(description="temperature of the samples")] = 0.5


class Finetune(Section):
    """What a run continues from, if not from random first values."""

    base: Annotated[str | None, Field(description="the model that the run began with")] = None
    lora_rank: Annotated[Count, Field(description="rank of the adapters; 0 trains all weights")] = 0
    lora_alpha: Annotated[Rate, Field(description="adapters count alpha / rank; 0 means 2 rank")] = 0.0
    replay: Annotated[Fraction, Field(description="share of rows from the base's own training data")] = 0.0

    @property
    def alpha(self) -> float:
        """The adapters' alpha."""
        return self.lora_alpha or 2.0 * self.lora_rank


class Phase(Section):
    """The learning-rate schedule of the steps before a run was extended to another total."""

    end_step: Positive  # the step that the next phase begins at
    steps: Positive  # the total of the run then
    schedule_from: Count
    optim: Optim

    @model_validator(mode="before")
    @classmethod
    def _read_old_key(cls, given: Any) -> Any:
        return _renamed(given, "until", "end_step")


class Config(Section):
    """The whole: what `run.toml` holds, and what a scenario file may set."""

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

    @model_validator(mode="before")
    @classmethod
    def _read_old_key(cls, given: Any) -> Any:
        return _renamed(given, "earlier", "phases")

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "configuration") -> Config:
        """Check a nested dict. Raises UsageError with `where` and the key."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UsageError(f"{where}: {_one_line(error)}", "E_CONFIG") from None

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
    """Nested dicts, later layers over earlier ones; a family given later also resets what it sets, and a key of
    RESETS what it takes back."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                value = {**_family(value), **value} if key == "model" else value
                below = out.get(key)
                below = below if isinstance(below, Mapping) else {}
                taken_back = {lost for given, lost in _resets(key) if given in value}
                out[key] = {**{name: old for name, old in below.items() if name not in taken_back}, **value}
            else:
                out[key] = value
    return out


def _resets(section: str) -> Iterator[tuple[str, str]]:
    for given, lost in RESETS.get(section, {}).items():
        yield from ((given, key) for key in lost)


def size(name: str) -> dict[str, Any]:
    """The layer of a size. Raises UsageError with the nearest names."""
    if name not in SIZES:
        raise UsageError(f"--size: no size is called {name!r}; {nearest(name, SIZES)}")
    return SIZES[name]


def _one_line(error: ValidationError) -> str:
    """The first mistake of a ValidationError as 'section.key: sentence (got …)'."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = SECTIONS.get(str(first["loc"][0]), Config)
        return f"{where}: there is no such key; {nearest(str(first['loc'][-1]), section.model_fields)}"
    sentence = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "value_error":
        return f"{where}: {sentence}"
    return f"{where}: {sentence}, got {first['input']!r}"
