# Every target installs what it needs: on a fresh clone `make demo` and `make test` are enough.
# PYTHON       the interpreter that .venv is made with (3.11 or newer)
# TORCH_INDEX  a package index with the torch wheel that you want (CPU only, a CUDA version); empty: pip's own
# STRATEGY     what `make demo` trains with: all_reduce or gossip
# WORKERS      how many processes share the tests of `make test`: a number, or one per core (at most four)
# ARGS         extra arguments for demo, test, test-sim, chaos, bench and fuzz

PYTHON ?= python3
TORCH_INDEX ?=
STRATEGY ?= all_reduce
WORKERS ?= logical
ARGS ?=

# Whole files, in their order.  A process that hangs says where before its timeout, and ends the run.
SHARED := --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 -o faulthandler_timeout=50

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-sim chaos test-swarm lint format types protos docs bench fuzz clean

help:  ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[.a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv with everything in it (again only when the dependencies change)

.venv: $(STAMP)

# torch goes first and alone: it is most of the download, and its index may be another one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lepton_p2p needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Train with four peers on this machine, kill the first, join a fresh one (STRATEGY=gossip)
	@$(BIN)/lepton-peer demo --strategy $(STRATEGY) $(ARGS)

test: $(STAMP)  ## Run every test that needs no containers
	$(BIN)/pytest -m 'not swarm' $(SHARED) $(ARGS)

test-sim: $(STAMP)  ## Try a thousand disasters in virtual time; every promise is checked
	$(BIN)/lepton-peer simulate --seeds 1000 $(ARGS)

chaos: $(STAMP)  ## Every kind of fault once, on real processes (ARGS="--minutes 60 --seed 7"; root for networks)
	$(BIN)/python scripts/chaos.py $(ARGS)

test-swarm: $(STAMP)  ## Run the container tests (starts Docker's daemon if none runs)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test_swarm.sh $(ARGS)

lint: $(STAMP)  ## Check style and formatting, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## Repair style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## Check types (strict)
	$(BIN)/mypy

protos: $(STAMP)  ## Generate the gRPC stubs again
	$(BIN)/python scripts/gen_protos.py

docs: $(STAMP)  ## Write docs/options.md and README's exit codes again, from the code
	$(BIN)/python scripts/options.py --write
	$(BIN)/python scripts/exit_codes.py --write

bench: $(STAMP)  ## Measure all-reduce against gloo on this machine
	$(BIN)/python benchmarks/all_reduce.py --against gloo $(ARGS)

fuzz: $(STAMP)  ## Fuzz everything that reads bytes from the network, for ten minutes (ARGS="--minutes 60")
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	$(BIN)/python scripts/fuzz.py $(ARGS)

clean:  ## Remove .venv, caches and build outputs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
