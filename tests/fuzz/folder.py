"""The folder that every case begins with: data, runs, models of all formats that are read, and settings."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
from pathlib import Path

from tests.chats import conversations, write
from tests.crash.runs import new, write_data
from tests.fuzz.child import load, run

RUNS = ("run", "chat", "lora", "model")  # what generate reads
FOREIGN = ("model-hf", "model.json", "model-moonbase")  # what import reads
TEXTS = ("names.txt", "names.txt.gz", "talks.jsonl", "texts.jsonl")
TINY = ["--engine", "manual", "--dtype", "float64"]


def make(folder: Path) -> Path:
    """Make the folder, each part by the command that users take. Raises RuntimeError if one fails."""
    load()
    place = folder / "start"
    place.mkdir(parents=True)
    data = write_data(place)
    write(place / "talks.jsonl", conversations(8))
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(20)))
    (place / "names.txt.gz").write_bytes(gzip.compress(data.read_bytes(), mtime=0))
    (place / "prompts.txt").write_text("a\nbe\n")
    (place / "urls.txt").write_text("http://127.0.0.1:9/\n")
    (place / "settings.toml").write_text('[model]\nn_embd = 8\nn_head = 2\n[run]\nsteps = 2\nengine = "manual"\n')
    tuning = ["--steps", "2", "--samples", "0", "--dtype", "float64"]
    chat = {"steps": 4, "checkpoint_every": 2, "eval_every": 2, "sample_every": 2}
    for words in (
        new(Path("names.txt"), Path("run"), steps=10, samples=1),
        ["tokenizer", "train", "talks.jsonl", "--vocab-size", "270", "--out", "tokenizer.json"],
        new(Path("talks.jsonl"), Path("chat"), tokenizer="char", block_size=32, samples=1, **chat),
        ["finetune", "run", "--data", "names.txt", "--out", "lora", "--lora-rank", "1", *tuning],
        ["export", "run", "--to", "safetensors", "--out", "model", "--no-quality"],
        ["export", "run", "--to", "kgx", "--out", "model.json", "--no-quality"],
        ["export", "run", "--to", "moonbase", "--out", "model-moonbase", "--no-quality"],
        new(Path("names.txt"), Path("modern"), steps=1, family="modern", activation="relu2", samples=0),
        ["export", "modern", "--to", "hf", "--out", "model-hf", "--no-quality"],
    ):
        ended = run(words, place, folder / "log", patience=120, deadline=120)
        if ended.status:
            raise RuntimeError(f"{' '.join(words)}: {ended.status} {ended.err}")
    shutil.rmtree(place / "modern")
    for kind in (place / "cache").iterdir():
        if kind.name != "speed":  # which else each case would measure anew
            shutil.rmtree(kind)
    return place


def add_special(folder: Path, name: str) -> None:
    """A special file: the name says which."""
    path = folder / name
    if name == "fifo":
        os.mkfifo(path)
    elif name == "directory":
        path.mkdir()
    elif name == "loop":
        path.symlink_to("loop")
    elif name == "dangling":
        path.symlink_to("nowhere")
    elif name == "zeros":
        path.symlink_to("/dev/zero")
    elif name == "socket":
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket has at most 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(name)
        finally:
            os.chdir(here)
    elif name == "unreadable":
        path.write_text("{}")
        path.chmod(0)
    elif name == "sparse":
        path.touch()
        os.truncate(path, 3 << 30)


SPECIAL = ("fifo", "directory", "loop", "dangling", "zeros", "socket", "unreadable", "sparse")
