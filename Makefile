# make demo · make test · make check. Needs python3 (3.11 or later) and nothing else.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check setup bench clean crash fuzz mutants test-clients test-page test-schema test-cpus test-arm soak proof-gradients proof-round-trip proof-memory proof-sweep proof-processes proof-hosts

demo: .venv/core  ## train the names model and print 20 names
	$(BIN)/microgpt train names

test: .venv/full  ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

check: .venv/full  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.serve.page.check_types

bench: .venv/full  ## the table of targets with today's figures, against PyTorch, JAX and C
	$(BIN)/python -m benchmarks

crash: .venv/full  ## 1000 random kills, signals, races: the figures of docs/crash.md
	$(BIN)/python -m tests.crash.long_form

fuzz: .venv/full  ## 20,000 extreme flags and damaged files against the command line: docs/security.md
	$(BIN)/python -m tests.fuzz

mutants: .venv/full  ## break the engines in some fifty ways; the suite must catch each
	$(BIN)/python -m tests.mutants

test-clients: .venv/full  ## LangChain's suite, lm-eval and the AI SDK against the service, in environments of their own
	$(BIN)/python -m tests.serve.clients .venv/clients

test-page: .venv/full  ## the page's tests at 360, 800 and 1400 pixels, light and dark, and by keyboard alone
	$(BIN)/python -m tests.serve.page.long_form

test-schema: .venv/full  ## 200,000 requests that schemathesis makes from /openapi.json, each answer held against it
	$(BIN)/python -m tests.serve.clients.schema 200000

soak: .venv/full  ## 10,000 clients that leave, 2,000 that are slow, ten times too many, and an hour of all: docs/serve.md
	$(BIN)/python -m tests.serve.abuse

test-cpus: .venv/full  ## the fused rung's suite with code for this CPU, AVX-512 without BF16, AVX2 and plain x86-64
	$(BIN)/python -m tests.cpus

test-arm: .venv/full  ## the fused rung's suite on an emulated ARM, hours of it: Debian's apt-get, no root
	$(BIN)/python -m tests.arm .venv/arm64

proof-gradients: .venv/full  ## every rung's gradients against differences, 200 random sets of options
	$(BIN)/python -m pytest tests/engines/test_ladder.py --long -k limit_of_differences

proof-round-trip: .venv/full  ## a million random Unicode texts there and back through the tokenizer
	$(BIN)/python -m benchmarks.tokenizers --round-trip 1000000

proof-memory: .venv/full  ## 1 GB of text tokenised, and 2 GB tokenised and trained on, in less than 1 GB of memory
	$(BIN)/python benchmarks/tokenise_large.py
	$(BIN)/python benchmarks/train_large.py

proof-sweep: .venv/full  ## a sweep of 24 names trials, killed at random, against one that was not: docs/sweeps.md
	$(BIN)/python -m tests.experiments.long_form

proof-processes: .venv/full  ## 2 and 4 processes against one; signals, kills and stops of each: docs/scale.md
	$(BIN)/python -m tests.training.processes_long

proof-hosts: .venv/full  ## two hosts by torchrun against one process; one is killed, or cut off: needs root and iproute2
	$(BIN)/python -m tests.training.hosts

setup: .venv/full  ## .venv with all that tests and benchmarks need

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "microgpt needs Python 3.11 or later, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/full: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev,data,scrape,export,serve,bench,sweep,tensorboard]'
	touch .venv/core $@
