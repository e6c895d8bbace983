# Targets with a comment behind two hashes are listed by `make` alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
DEMO := configs/demo/hcnn_digits.yaml
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all whole faults reproduce lint format types check bench docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## virtual environment .venv with the package, its extras and the tools

# Made once, and again when pyproject.toml changes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $(PYTHON) must be Python 3.10 or newer; install one, or name it: make $(or $(MAKECMDGOALS),install) PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable ".[dev,data,report,text,docs]"
	@touch $@

demo: $(STAMP)  ## train a hyperbolic CNN on real digits and test it; ends with a table and a figure
	$(BIN)/python -m lightning_priv fit --config $(DEMO)
	$(BIN)/python -m lightning_priv test --config $(DEMO) --ckpt_path last

test: $(STAMP)  ## the tests, in two processes (make test WORKERS=0 for one)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --ignore=tests/faults

whole: $(STAMP)  ## tests that take seconds each: demos, examples, studies, audits, kills
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --ignore=tests/faults -m "whole and not slow and not ddp"

test-all: $(STAMP)  ## all tests: also the slow ones and those on two processes
	$(BIN)/python -m pytest -m ""

faults: $(STAMP)  ## the hard knocks: kills, full disks, damaged files, bad configurations
	$(BIN)/python -m pytest -n $(WORKERS) --dist load tests/faults -m "not gpu"

reproduce: $(STAMP)  ## every paper's study in its short form, on offline data
	$(BIN)/python -m lightning_priv reproduce hcnn dpal lsi multiplicity visual_audit bounds --fast

lint: $(STAMP)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## static types
	$(BIN)/mypy

check: lint types test  ## lint, types and test

bench: $(STAMP)  ## all benchmarks
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(STAMP)  ## the documentation, as a folder of pages: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove runs and caches; .venv stays
	rm -rf runs wandb build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find lightning_priv tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
