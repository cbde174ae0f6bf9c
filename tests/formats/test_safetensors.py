from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from microgpt.cli import main
from microgpt.engines import lora
from microgpt.errors import CheckpointError, NumericError, UsageError
from microgpt.formats import FORMATS, export
from microgpt.runs import checkpoint
from microgpt.runs.manifest import seal
from tests.formats.conftest import MODERN, Build, greedy, logits


def test_weights_and_description_alone_and_the_same_numbers(build: Build, tmp_path: Path) -> None:
    source = build(**MODERN, softcap=15.0)
    done = export(source, "safetensors", tmp_path / "out")
    files = {entry.name for entry in done.path.rglob("*")}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"),
        "MANIFEST.json",
    }
    np.testing.assert_array_equal(logits(done.path, [26, 1, 2]), logits(source, [26, 1, 2]))
    assert checkpoint.read(done.path).step == 7


@pytest.mark.parametrize(("stored", "share"), [("float16", 0.5), ("bfloat16", 0.5), ("int8", 0.29)])
def test_fewer_bits_open_everywhere(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str, share: float
) -> None:
    source = build(n_embd=64, n_layer=4, init_std=0.1)
    done = export(source, "safetensors", tmp_path / "out", storage=stored)
    header = 120 * 30
    whole, part = ((path / "model.safetensors").stat().st_size for path in (source, done.path))
    assert part - header < share * whole
    assert np.abs(logits(done.path, [26, 1, 2]) - logits(source, [26, 1, 2])).max() < 0.1
    assert main(["generate", str(done.path), "-n", "1", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == greedy(done.path, "")
    assert main(["info", str(done.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 7


def test_overflow_writes_nothing(build: Build, tmp_path: Path) -> None:
    source = build(init_std=40000.0)
    with pytest.raises(NumericError, match="ends at 65504"):
        export(source, "safetensors", tmp_path / "out", storage="float16")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert export(source, "safetensors", tmp_path / "out", storage="bfloat16").path.is_dir()


def reseal(folder: Path) -> None:
    names = [entry.name for entry in folder.iterdir() if entry.name != "MANIFEST.json"]
    contents = seal({name: (folder / name).read_bytes() for name in names}, 7)
    (folder / "MANIFEST.json").write_bytes(contents["MANIFEST.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("wte.scale"), "'wte.scale' is missing"),
        (lambda t: t.update({"wte.scale": t["wte.scale"].astype(np.float16)}), "'wte.scale' has dtype 'F16'"),
        (lambda t: t.update({"wte.scale": t["wte.scale"][:3]}), r"'wte.scale' has shape \[3, 1\]"),
        (lambda t: t.update({"lm_head": t["lm_head"].astype(np.int16)}), "'lm_head.scale' is unknown"),
        (lambda t: t.update({"lm_head": t["lm_head"].astype(np.int16)}) or t.pop("lm_head.scale"), "has dtype 'I16'"),
    ],
)
def test_damaged_int8_is_refused_by_name(build: Build, tmp_path: Path, change: object, message: str) -> None:
    folder = export(build(), "safetensors", tmp_path / "out", storage="int8").path
    tensors = load_file(folder / "model.safetensors")
    change(tensors)  # type: ignore[operator]
    save_file(tensors, folder / "model.safetensors")
    reseal(folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(folder).weights()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "pickle"}, "there is no format 'pickle'"),
        ({"to": "kgx", "storage": "int8"}, "--to kgx: cannot hold int8"),
        ({"to": "onnx", "custom_code": True}, "only with --to hf"),
    ],
)
def test_what_cannot_be_is_refused(build: Build, tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(build(), out=tmp_path / "out", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten(build: Build, tmp_path: Path, to: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export(build(), to, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_command_reports_what_fewer_bits_cost(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, text = build(), tmp_path / "out", tmp_path / "text.txt"
    text.write_text("anna\nemma\n")
    command = ["export", str(source), "--to", "safetensors", "--int8", "--json", "--out"]
    assert main([*command, str(tmp_path / "unmeasured")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["quality"] == []
    assert "name one with --data" in facts["quality_on"]
    assert main([*command, str(out), "--data", str(text)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["path"], facts["to"], facts["storage"]) == (str(out), "safetensors", "int8")
    assert facts["bytes"] == sum(entry.stat().st_size for entry in out.iterdir())
    before, after = facts["quality"]
    assert (before["storage"], after["storage"]) == ("float32", "int8")
    assert before["loss"] != after["loss"]
    assert abs(before["bits_per_byte"] - after["bits_per_byte"]) < 0.2
    assert main(["export", str(source), "--to", "safetensors", "--half", "--int8"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_text_that_cannot_be_measured_on_writes_nothing(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    words = ["export", str(build()), "--to", "safetensors", "--int8", "--data", str(text), "--out", str(out)]
    assert main(words) == 3
    assert "text.txt: no such file" in capsys.readouterr().err
    text.write_text("ANNA\n")
    assert main(words) == 3
    assert not out.exists()
    text.write_text("anna\n")
    assert main(words) == 0


def test_adapters_are_merged(build: Build, tmp_path: Path) -> None:
    saved = checkpoint.read(build())
    config = saved.config.replace(finetune={"lora_rank": 2})
    rng = np.random.default_rng(0)
    adapters = {w.name: rng.normal(0, 0.3, w.shape).astype(np.float32) for w in lora.table(config.model, 2)}
    tuned = checkpoint.write(tmp_path, config, saved.tokenizer, saved.weights() | adapters, {"step": 9})
    done = export(tuned, "safetensors", tmp_path / "out")
    assert done.notes == ["its adapters of rank 2 are merged into the matrices"]
    assert export(tuned, "safetensors", tmp_path / "asked", merge=True).notes == done.notes
    with pytest.raises(UsageError, match=r"--merge: .* has no adapters"):
        export(saved.path, "safetensors", tmp_path / "none", merge=True)
    np.testing.assert_array_equal(logits(done.path, [26, 1]), logits(tuned, [26, 1]))
    assert np.abs(logits(done.path, [26, 1]) - logits(saved.path, [26, 1])).max() > 0.01
