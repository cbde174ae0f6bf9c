from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.errors import CheckpointError, UsageError
from microgpt.formats import export
from microgpt.formats.imports import import_model
from microgpt.inference.language_model import LanguageModel
from microgpt.tokenizers import train
from tests.formats.conftest import CLASSIC, MODERN, NANOCHAT, Build, greedy, logits

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

ARCEE = [
    MODERN,
    {**MODERN, "rope_pairs": "interleaved", "activation": "gelu", "rope_base": 300.0},
    {**MODERN, "tie_embeddings": True, "activation": "relu"},
    {**MODERN, "tie_embeddings": True, "norm_embedding": False},
]
NANO = [NANOCHAT, {**NANOCHAT, "softcap": 4.0, "tie_embeddings": True, "rope_pairs": "interleaved"}]
TEXTS = ["the cat sat on the mat. it's 12345 degrees — née Zoë", "  two  spaces\nand lines 🙂"] * 3


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = [*sys.path]
    yield
    sys.path[:] = path


def open_there(folder: Path, **options: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    return model.eval(), AutoTokenizer.from_pretrained(folder, **options)


def check(source: Path, folder: Path, name: str, prompt: str = "ham", **options: Any) -> None:
    model, tokenizer = open_there(folder, **options)
    assert type(model).__name__ == name
    ids, _ = LanguageModel.open(source).encode(prompt)
    assert tokenizer(prompt)["input_ids"] == ids
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].double().numpy()
    assert np.abs(theirs - logits(source, ids)).max() < 1e-5
    room = LanguageModel.open(source).config.model.block_size + 1
    out = model.generate(torch.tensor([ids]), do_sample=False, max_length=room)
    text = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    assert text == greedy(source, prompt)


@pytest.mark.parametrize("options", [*ARCEE, *NANO], ids=lambda options: "-".join(map(str, options.values())))
def test_there_and_back(build: Build, tmp_path: Path, options: dict[str, Any]) -> None:
    source = build(**options, init_std=0.2)
    folder = export(source, "hf", tmp_path / "out").path
    check(source, folder, "ArceeForCausalLM" if options in ARCEE else "NanoChatForCausalLM")
    back = import_model(folder, tmp_path / "back").path
    assert np.abs(logits(back, [26, 4, 5]) - logits(source, [26, 4, 5])).max() < 1e-5


@pytest.mark.parametrize("kind", ["bpe", "bpe-vidya", "word"])
def test_other_tokenizers(build: Build, tmp_path: Path, kind: str) -> None:
    source = build(tokenizer=train(kind, TEXTS, roles=True), **MODERN, init_std=0.2)
    folder = export(source, "hf", tmp_path / "out").path
    check(source, folder, "ArceeForCausalLM", "the cat — née")
    back = import_model(folder, tmp_path / "back").path
    assert np.abs(logits(back, [2, 4, 5]) - logits(source, [2, 4, 5])).max() < 1e-5


def test_a_chat_goes_along(build: Build, tmp_path: Path) -> None:
    """transformers and llama.cpp get the template that our own rendering follows."""
    tokenizer = train("bpe", TEXTS, roles=True)
    source = build(tokenizer=tokenizer, block_size=128, **MODERN)
    folder = export(source, "hf", tmp_path / "out").path
    messages = [{"role": "user", "content": "née"}, {"role": "assistant", "content": "it's"}]
    messages += [{"role": "user", "content": "  two\n"}]
    _, theirs = open_there(folder)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ours = chat_template.prompt([Message(m["role"], m["content"]) for m in messages], tokenizer, 128)
    assert (ids, ours.dropped) == (ours.tokens, 0)
    ends = [tokenizer.bos, tokenizer.special["end_turn"]]
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == ends
    fields = gguf.GGUFReader(export(source, "gguf", tmp_path / "model.gguf").path).fields
    assert fields["tokenizer.chat_template"].contents() == chat_template.TEMPLATE
    for copied in (import_model(folder, tmp_path / "back"), export(source, "safetensors", tmp_path / "plain")):
        assert (copied.path / "chat_template.jinja").read_text() == chat_template.TEMPLATE
    (source / "chat_template.jinja").write_text(chat_template.TEMPLATE.replace("user", "uSer"))
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: its SHA-256"):
        export(source, "hf", tmp_path / "again")


@pytest.mark.parametrize("roles", [False, True])
def test_its_readme_is_right(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], roles: bool
) -> None:
    source = build(tokenizer=train("bpe", TEXTS, roles=roles), **MODERN)
    monkeypatch.chdir(export(source, "hf", tmp_path / "out").path)
    readme = Path("README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in readme
    assert re.search(r"^- trained: 7 of", readme, re.M)
    Path("example.py").write_text(readme.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    runpy.run_path("example.py")
    assert ("'role': 'assistant'" if roles else "generated_text") in capsys.readouterr().out
    (command,) = re.findall(r"`microgpt (.*?)`", readme)
    assert main(shlex.split(command)) == 0


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_fewer_bits(build: Build, tmp_path: Path, stored: str) -> None:
    source = build(**MODERN, init_std=0.1)
    model, _ = open_there(export(source, "hf", tmp_path / "out", storage=stored).path)
    assert str(model.dtype) == f"torch.{stored}"
    with torch.no_grad():
        theirs = model(torch.tensor([[26, 1, 2]])).logits[0].double().numpy()
    assert np.abs(theirs - logits(source, [26, 1, 2])).max() < 0.05


def test_classic_is_refused_with_the_reason(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"position = learned .*, final_norm = false .*--custom-code"):
        export(build(**CLASSIC), "hf", tmp_path / "out")
    with pytest.raises(UsageError, match=r"ArceeForCausalLM cannot hold this model: softcap = 3\.0"):
        export(build("capped", **MODERN, softcap=3.0), "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [CLASSIC, {**MODERN, "rope_pairs": "interleaved", "softcap": 3.0}, {**NANOCHAT, "activation": "gelu"}],
    ids=["classic", "capped", "gelu"],
)
def test_custom_code_holds_every_model(build: Build, tmp_path: Path, options: dict[str, Any]) -> None:
    source = build(**options, init_std=0.2)
    done = export(source, "hf", tmp_path / "out", custom_code=True)
    assert "trust_remote_code=True" in done.notes[0]
    check(source, done.path, "MicroGPTForCausalLM", trust_remote_code=True)
    np.testing.assert_array_equal(logits(done.path, [26, 1]), logits(source, [26, 1]))


def test_a_foreign_folder_with_gains_is_folded(tmp_path: Path) -> None:
    """A model that transformers itself made: gains that are not 1, BOS first, a byte-level BPE of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import ArceeConfig, ArceeForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<bos>", "<user>", "<assistant>", "<end_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ArceeConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=32, bos_token_id=0, eos_token_id=0, **sizes
    )
    model = ArceeForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    folder = tmp_path / "foreign"
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    done = import_model(folder, tmp_path / "ours")
    writer = LanguageModel.open(done.path, dtype="float64")
    text = "the cat sat, it's née"
    theirs = [0, *tokenizer.encode(text).ids]
    ours, _ = writer.encode(text)
    assert [writer.tokenizer.token(i) for i in ours[1:]] == [bytes_of(tokenizer, i) for i in theirs[1:]]
    with torch.no_grad():
        found = model(torch.tensor([theirs])).logits[0].double().numpy()
    order = [*(tokenizer.token_to_id(name) for name in names(writer)), *range(1, 4), 0]
    assert np.abs(logits(done.path, ours) - found[:, order]).max() < 1e-4


def names(writer: LanguageModel) -> list[str]:
    return writer.tokenizer.names  # type: ignore[attr-defined]


def bytes_of(tokenizer: Any, token: int) -> str:
    from microgpt.tokenizers.byte_letters import BYTES

    return bytes(BYTES[letter] for letter in tokenizer.id_to_token(token)).decode("utf-8", "backslashreplace")
