# make demo    train, convert and take apart a small network, in under a minute
# make test    lint, types and tests
# make scatter the torch-scatter extra, compiled here, and the tests of its backend
# make bench   the benchmarks
# make format  rewrite the code in the project's format

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -c constraints.txt

# constraints.txt is tested on Python 3.11; a launcher may exist and still have nothing to start.
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)

.DEFAULT_GOAL := test
.PHONY: demo test lint types unit scatter bench format clean

demo: $(VENV)/.demo
	$(BIN)/graphnn demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/backends -k fused_gpu

scatter: $(VENV)/.scatter
	$(BIN)/python -c 'from torch_geometric import typing; assert typing.WITH_TORCH_SCATTER'
	$(BIN)/python -m pytest tests/backends graphnn/backends -k scatter

bench: $(VENV)/.bench
	set -e; $(BIN)/python -m benchmarks --patience 60 --output benchmarks/results/ladder.jsonl; \
	for name in triplets import_time agreement build graphml attribution; do \
		$(BIN)/python -m benchmarks.$$name --output benchmarks/results/$$name.jsonl; done; \
	$(BIN)/python -m benchmarks.tables --write

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo_output .pytest_cache .ruff_cache *.egg-info

$(BIN)/python:
	$(if $(PYTHON),,$(error Python 3.11 or newer with its venv module is needed; name it with PYTHON=...))
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what it was installed from, so that a second call installs nothing.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP_INSTALL) -e '.[bench]'
	touch $@

# torch-scatter is compiled against the torch that is installed: no build isolation, which would
# fetch another one.
$(VENV)/.scatter: $(VENV)/.dev
	$(PIP_INSTALL) 'setuptools>=77' wheel
	$(PIP_INSTALL) --no-build-isolation -e '.[scatter]'
	touch $@
