# Two commands for newcomers: `make demo` and `make test`. Both set up what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
STAMP := $(VENV)/.installed
# Pinned: an open requirement may bring a build for graphics cards, of several gigabytes.
TORCH ?= torch==2.13.0
# For the test of one example; it takes the torch above as it is.
OPACUS ?= opacus==1.6.0

.PHONY: demo test test-r test-slow lint types bench bench-peers clean install

install: $(STAMP)

$(STAMP): pyproject.toml Makefile $(shell find native -type f 2>/dev/null)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tercet needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[keras,privacy,dev]' '$(TORCH)' '$(OPACUS)'
	touch $(STAMP)

demo: $(STAMP)  ## Train a small network, share it with three workers, ask it three times
	$(BIN)/tercet demo $(if $(DATA),--data $(DATA))

test: lint types  ## All that CI runs, but for the slow tests; JOBS=1 for one process
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --benchmark-disable

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 3600

# reticulate below 1.38, as Debian has it, reads NumPy 1 alone: R gets a Python of its own.
R_VENV := .venv-r
R_STAMP := $(R_VENV)/.installed

$(R_STAMP): $(STAMP) $(shell find src native -type f -not -name "*.pyc")
	$(PYTHON) -m venv $(R_VENV)
	$(R_VENV)/bin/python -m pip install --quiet '.[keras]' 'numpy<2'
	touch $(R_STAMP)

test-r: $(R_STAMP)  ## The R package's check and the three scripts; needs R, reticulate, testthat
	cd $(R_VENV) && R CMD build ../r
	cd $(R_VENV) && RETICULATE_PYTHON=$(CURDIR)/$(R_VENV)/bin/python R CMD check --no-manual tercet_*.tar.gz
	RETICULATE_PYTHON=$(CURDIR)/$(R_VENV)/bin/python $(BIN)/python -m pytest tests/r/scripts.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## All benchmarks; PARTS="predict slow" runs some
	$(BIN)/python -m bench $(PARTS)

bench-peers: $(STAMP)  ## Tercet beside SPU and CrypTen: predictions, training steps; each in its environment
	$(BIN)/python -m bench.peers

clean:
	rm -rf $(VENV) $(R_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
