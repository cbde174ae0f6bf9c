"""Wrong and hostile files of others: refused by name, and nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from microgpt.cli import main
from microgpt.errors import CheckpointError, NumericError, UsageError
from microgpt.formats import export
from microgpt.formats.imports import import_model
from microgpt.runs import checkpoint
from tests.formats.conftest import KGX, MODERN, NANOCHAT, Build, greedy, logits

Change = Callable[[Path], None]


def edit(name: str, **values: Any) -> Change:
    """Set keys of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for key, value in values.items():
            if value is None:
                content.pop(key)
            else:
                content[key] = value
        (folder / name).write_text(json.dumps(content))

    return change


def tensor(name: str, key: str, value: Callable[[np.ndarray], np.ndarray] | None) -> Change:
    """Change or remove a tensor."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        found = tensors.pop(key)
        if value:
            tensors[key] = np.ascontiguousarray(value(found))
        save_file(tensors, folder / name)

    return change


def cut(name: str, size: int) -> Change:
    return lambda folder: os.truncate(folder / name, size)


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8", errors="surrogatepass") and None


def refused(folder: Path, change: Change, message: str, tmp_path: Path) -> None:
    change(folder)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=message) as caught:
        import_model(folder, tmp_path / "ours")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


W = "weights.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("meta.json", n_embd=None), "meta.json: n_embd must be a whole number above 0, got None"),
        (edit("meta.json", n_embd=True), "n_embd must be a whole number above 0, got True"),
        (edit("meta.json", n_embd=2**40), "sizes of at least .* numbers, but the weights have"),
        (edit("meta.json", n_layer=10**12), "sizes of at least"),
        (edit("meta.json", n_head=3), "n_embd must be divisible by n_head"),
        (edit("meta.json", block_size=10**9), "block_size must be at most 1,048,576"),
        (edit("meta.json", block_size=25), "has shape"),
        (edit("meta.json", chars=["a", "bc"]), "list of single characters"),
        (edit("meta.json", chars=["a", "a"]), "occur once each"),
        (edit("meta.json", chars="abc"), "list of single characters"),
        (edit("meta.json", chars=["a", "\ud800"]), "surrogate"),
        (edit("meta.json", chars=["a", "b"]), "3 tokens, but vocab_size is 27"),
        (edit("meta.json", special_tokens=["root"]), r"special_tokens \['root'\]"),
        (edit("meta.json", chars=None), "neither chars in it nor a tokenizer.json"),
        (text("meta.json", '{"n_embd": 1, "n_embd": 2}'), "the key 'n_embd' occurs twice"),
        (text("meta.json", "[" * 100_000), "damaged JSON"),
        (text("meta.json", "[1]"), "expected an object"),
        (lambda folder: (folder / W).unlink(), "cannot be read"),
        (cut(W, 100), "not a safetensors file|but the weights have"),
        (cut(W, 10_000), "overlap or leave holes|but the weights have"),
        (tensor(W, "wte", None), "'wte' is missing"),
        (tensor(W, "wte", lambda x: x.T), r"'wte' has shape \[16, 27\]"),
        (lambda folder: os.truncate(folder / W, 2**40), "at most"),
    ],
)
def test_moonbase(build: Build, tmp_path: Path, change: Change, message: str) -> None:
    export(build(), "moonbase", tmp_path / "theirs")
    refused(tmp_path / "theirs", change, message, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite(build: Build, tmp_path: Path, value: float) -> None:
    export(build(), "moonbase", tmp_path / "theirs")
    tensor(W, "wpe", lambda x: np.where(x > 0, value, x))(tmp_path / "theirs")
    with pytest.raises(NumericError, match="'wpe' holds a number that is not finite"):
        import_model(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("model.json", n_layer=-1), "n_layer must be a whole number above 0, got -1"),
        (edit("model.json", n_layer=10**9), "sizes of at least"),
        (edit("model.json", uchars=None), "list of single characters"),
        (edit("model.json", vocab_size=28), "27 tokens, but vocab_size is 28"),
        (edit("model.json", state_dict={}), "sizes of at least"),
        (edit("model.json", state_dict={}, padding="x" * 99999), r"see 'layer0\.attn_wk'"),
        (edit("model.json", activation="system"), "activation"),
        (edit("model.json", activation=["relu"]), "activation"),
    ],
)
def test_kgx(build: Build, tmp_path: Path, change: Change, message: str) -> None:
    (tmp_path / "theirs").mkdir()
    export(build(**KGX), "kgx", tmp_path / "theirs" / "model.json")
    refused(tmp_path / "theirs", change, message, tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["1.0"] * 16, "something that is not a number"),
        ([True] * 16, "something that is not a number"),
        ([0.5] * 15, "27 lists of 16 numbers"),
        ("0123456789abcdef", "27 lists of 16 numbers"),
        ([10**400] * 16, "a number beyond float64"),
    ],
)
def test_kgx_matrices(build: Build, tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "theirs").mkdir()
    path = export(build(**KGX), "kgx", tmp_path / "theirs" / "model.json").path
    content = json.loads(path.read_text())
    content["state_dict"]["wte"][3] = value
    refused(path.parent, text("model.json", json.dumps(content)), f"wte: .*{message}", tmp_path)


def test_kgx_infinity(build: Build, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    path = export(build(**KGX), "kgx", tmp_path / "theirs" / "model.json").path
    content = json.loads(path.read_text())
    content["state_dict"]["wte"][3][0] = 12345678
    text("model.json", json.dumps(content).replace("12345678", "1e400"))(path.parent)
    refused(path.parent, lambda folder: None, "1e400 is larger than any number", tmp_path)


M = "model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("config.json", model_type="llama"), "model_type 'llama'; this version imports arcee and nanochat"),
        (edit("config.json", model_type="microgpt"), "a model of microgpt already"),
        (edit("config.json", hidden_act="silu"), "hidden_act 'silu'"),
        (edit("config.json", num_key_value_heads=1), "num_key_value_heads is 1; a model of microgpt has 2"),
        (edit("config.json", intermediate_size=100), "intermediate_size is 100"),
        (edit("config.json", rms_norm_eps=1e-6), "rms_norm_eps is 1e-06"),
        (edit("config.json", attention_bias=True), "attention_bias is True"),
        (edit("config.json", rope_parameters={"rope_type": "yarn"}), "this version reads plain RoPE"),
        (edit("config.json", rope_parameters=[1]), "this version reads plain RoPE"),
        (edit("config.json", rope_parameters={"rope_theta": "x"}), "rope_base"),
        (edit("config.json", hidden_size=2**40), "head_dim is 8"),
        (edit("config.json", num_hidden_layers=2**40), "sizes of at least"),
        (edit("config.json", max_position_embeddings=2**40), "max_position_embeddings must be at most 1,048,576"),
        (edit("config.json", vocab_size=20), "27 tokens, but the model has 20"),
        (lambda folder: (folder / M).rename(folder / "pytorch_model.bin"), "no shards and no pickle"),
        (tensor(M, "model.norm.weight", lambda x: x[:3]), r"'model\.norm\.weight' has shape \[3\]"),
        (tensor(M, "model.layers.1.mlp.up_proj.weight", None), "is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: cannot be read"),
        (edit("tokenizer.json", model={"type": "Unigram"}), "nor a byte-level BPE"),
        (text("tokenizer.json", "[]"), "not a tokenizer.json"),
    ],
)
def test_hf(build: Build, tmp_path: Path, change: Change, message: str) -> None:
    export(build(**MODERN), "hf", tmp_path / "theirs")
    refused(tmp_path / "theirs", change, message, tmp_path)


def test_without_a_model(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        import_model(tmp_path / "nothing", tmp_path / "ours")
    with pytest.raises(CheckpointError, match="not a model that this version imports"):
        import_model(tmp_path, tmp_path / "ours")
    with pytest.raises(UsageError, match="exists already"):
        import_model(tmp_path, tmp_path)
    assert main(["import", str(tmp_path / "nothing"), "--out", str(tmp_path / "ours")]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_the_training_state_of_muchq_comes_along(build: Build, tmp_path: Path) -> None:
    source = build()
    folder = export(source, "moonbase", tmp_path / "theirs").path
    for part, value in (("m", 0.25), ("v", 0.125)):
        tensors = {name: np.full_like(x, value) for name, x in load_file(folder / W).items()}
        save_file(tensors, folder / f"optimizer_{part}.safetensors")
    (folder / "train_state.json").write_text('{"step": 41, "adam_step": 41}')
    done = import_model(folder, tmp_path / "ours")
    saved = checkpoint.read(done.path)
    assert (done.step, saved.step) == (41, 41)
    assert done.notes == ["Adam's moments after 41 steps are included"]
    tensors = saved.tensors()
    assert (tensors["m.wte"] == 0.25).all()
    assert (tensors["v.layer1.mlp_fc2"] == 0.125).all()
    refused(folder, edit("train_state.json", step=-1), "step must be a whole number, got -1", tmp_path / "ours")


@pytest.mark.parametrize(("to", "options"), [("moonbase", {}), ("hf", MODERN), ("hf", NANOCHAT)])
def test_every_command_opens_it(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, options: dict[str, Any]
) -> None:
    source = build(**options)
    export(source, to, tmp_path / "theirs")
    assert main(["import", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(tmp_path / "ours")
    assert facts["vocab_size"] == 27
    assert main(["generate", str(tmp_path / "ours"), "-n", "1", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == greedy(source, "")
    assert main(["info", str(tmp_path / "ours")]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "ours"), "--to", to, "--out", str(tmp_path / "again")]) == 0
    names = [entry.name for entry in (tmp_path / "theirs").iterdir()]
    same = {n for n in names if (tmp_path / "again" / n).read_bytes() == (tmp_path / "theirs" / n).read_bytes()}
    assert {"weights.safetensors", "model.safetensors", "tokenizer.json"} & {*names} <= same | {"model.safetensors"}
    assert np.abs(logits(tmp_path / "ours", [26, 1]) - logits(source, [26, 1])).max() < 1e-4


def test_only_files_of_the_folder_come_into_a_model(build: Build, tmp_path: Path) -> None:
    """A link out of the folder is followed by none of the files that are copied as they are."""
    secret = tmp_path / "passwords"
    secret.write_text("root")
    theirs = export(build(**MODERN), "hf", tmp_path / "hf").path
    (theirs / "chat_template.jinja").symlink_to(secret)
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: a link out of the folder; copy the folder with"):
        import_model(theirs, tmp_path / "ours")
    (theirs / "chat_template.jinja").unlink()
    (theirs / "a").write_text("template")
    (theirs / "chat_template.jinja").symlink_to("a")
    imported = import_model(theirs, tmp_path / "ours").path
    assert (imported / "chat_template.jinja").read_text() == "template"
    (imported / "MANIFEST.json").unlink()
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (imported / name).unlink(missing_ok=True)
        (imported / name).symlink_to(secret)
        with pytest.raises(CheckpointError, match=f"{name}: a link out of the folder"):
            export(imported, "safetensors", tmp_path / "copy")
        (imported / name).unlink()


def test_what_is_parsed_may_be_a_link(build: Build, tmp_path: Path) -> None:
    """As in Hugging Face's cache, whose snapshots are links to ../../blobs."""
    theirs, blobs = export(build(**MODERN), "hf", tmp_path / "snapshots" / "1").path, tmp_path / "blobs"
    blobs.mkdir()
    for i, file in enumerate(sorted(theirs.iterdir())):
        os.rename(file, blobs / str(i))
        file.symlink_to(f"../../blobs/{i}")
    assert import_model(theirs, tmp_path / "ours").vocab_size == 27


@pytest.mark.parametrize("given", [["silu"], {"name": "silu"}, 3, None], ids=repr)
def test_an_activation_that_is_no_name_is_refused(build: Build, tmp_path: Path, given: Any) -> None:
    theirs = export(build(**MODERN), "hf", tmp_path / "hf").path
    content = json.loads((theirs / "config.json").read_text()) | {"hidden_act": given}
    (theirs / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"hidden_act .*; expected one of relu"):
        import_model(theirs, tmp_path / "ours")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_no_pipe_is_waited_for_and_nothing_huge_is_read(build: Build, tmp_path: Path, name: str, kind: str) -> None:
    theirs = export(build(**MODERN), "hf", tmp_path / "hf").path
    (theirs / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(theirs / name)
    else:
        (theirs / name).touch()
        os.truncate(theirs / name, 3 << 30)
    with pytest.raises(CheckpointError, match=r"not a plain file|larger than|no such file|not a model|at most"):
        import_model(theirs, tmp_path / "ours")
