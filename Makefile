# Every target works from a bare checkout: it makes .venv and installs what it needs when that is missing or out of date.
#   make book [FULL=1] [FORCE=1]      make test [PYTEST="-k store"]      make model MODEL=1.5-7B DATA=folder DEVICE=cuda
# PYTHON=python3.12 chooses an interpreter; CONSTRAINTS= (empty) installs the newest allowed versions.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PORT ?= 8000
INDEX := book/_build/html/book/index.html
DEPENDENCIES := pyproject.toml $(wildcard $(CONSTRAINTS))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help book pdf test test-book test-long lab serve model paper miniatures check format constraints clean clean-all

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- environment: `book` needs the extras book and train, everything else the dev extra -------------------------------------

$(BIN)/python:
	@python="$(PYTHON)"; \
	for candidate in "$$python" python3.11 python3.12 python3.13 python3 python; do \
	    [ -n "$$candidate" ] || continue; \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Making $(VENV) with $$("$$candidate" --version)"; \
	        exec "$$candidate" -m venv $(VENV); \
	    fi; \
	    if [ "$$candidate" = "$$python" ]; then \
	        echo "PYTHON=$$python is not Python 3.11 or newer with the venv module; fix: give another one, or leave PYTHON out." >&2; \
	        exit 2; \
	    fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module found; fix: install one (on Debian also python3-venv), or give PYTHON=/path/to/python." >&2; \
	exit 2

$(VENV)/.base: $(DEPENDENCIES) | $(BIN)/python
	@echo "Installing visualheads[book] (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[book,train]"
	@touch $@

$(VENV)/.dev: $(DEPENDENCIES) | $(BIN)/python
	@echo "Installing visualheads[dev] (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[dev]"
	@touch $@ $(VENV)/.base

# --- for readers and re-executors -------------------------------------------------------------------------------------------

book: $(VENV)/.base ## trace the miniatures, run the notebooks, render the book (FULL=1, FORCE=1)
	@# no page needs the base weights, so they are prepared meanwhile
	@{ [ -d data/checkpoints/smol-base ] || $(BIN)/visualheads weights smol --optional; } & \
	$(BIN)/visualheads book $(if $(FULL),--full) $(if $(FORCE),--force); made=$$?; wait; exit $$made

model: $(VENV)/.base ## one model's page: MODEL=… [DATA= DEVICE= DTYPE= N= SEED= UNTRAINED=]
	@if [ -z "$(MODEL)" ]; then \
	    echo "make model needs MODEL=…: a catalogue name ('$(BIN)/visualheads models' lists them), a folder or a hub id." >&2; exit 2; \
	fi
	@$(BIN)/visualheads page "$(MODEL)" \
	    $(if $(DATA),-p "data=$(DATA)") $(if $(DEVICE),-p "device=$(DEVICE)") $(if $(DTYPE),-p "dtype=$(DTYPE)") \
	    $(if $(N),-p "n=$(N)") $(if $(SEED),-p "seed=$(SEED)") $(if $(UNTRAINED),-p "untrained=$(UNTRAINED)")
	@$(BIN)/visualheads book

paper: $(VENV)/.base ## the paper's nine on a GPU: DATA=folder [MODELS="…" DEVICE= DTYPE= N= JUDGED= CLUSTER= DRY=1]
	@if [ -z "$(DATA)" ]; then \
	    echo "make paper needs DATA=…: a folder with a folder of official files per benchmark (looktwice, pope, …)." >&2; exit 2; \
	fi
	@$(BIN)/visualheads paper "$(DATA)" $(foreach one,$(MODELS),--model "$(one)") \
	    $(if $(DEVICE),--device "$(DEVICE)") $(if $(DTYPE),--dtype "$(DTYPE)") $(if $(N),--n "$(N)") \
	    $(if $(JUDGED),--judged "$(JUDGED)") $(if $(CLUSTER),--cluster "$(CLUSTER)") $(if $(DRY),--dry-run)
	@$(if $(DRY),true,$(BIN)/visualheads book)

serve: $(VENV)/.base ## show the built book at http://127.0.0.1:8000 (PORT=…)
	@if [ ! -f $(INDEX) ]; then echo "No book yet; fix: make book" >&2; exit 2; fi
	@echo "http://127.0.0.1:$(PORT)/book/index.html  (Ctrl-C ends)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory book/_build/html

pdf: book ## the book as book/_build/visualheads.pdf, printed by Chromium
	@$(BIN)/visualheads pdf --out book/_build/visualheads.pdf

lab: $(VENV)/.dev ## JupyterLab with the kernel ready
	@$(BIN)/jupyter lab --notebook-dir=. $(LAB)

# --- for contributors -------------------------------------------------------------------------------------------------------

test: $(VENV)/.dev ## all tests but those of the built book, files side by side (PYTEST="-k …")
	@$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

test-book: $(VENV)/.dev ## browser tests over every page of the built book
	@if [ ! -f $(INDEX) ]; then $(MAKE) --no-print-directory book; fi
	@$(BIN)/python -m pytest -m built_book tests/book/built.py $(PYTEST)

test-long: $(VENV)/.dev ## what takes longer: every class, every damaged file, Lab, schedulers (15 minutes)
	@[ -d data/checkpoints/smol-base ] || $(BIN)/visualheads weights smol --optional
	@$(BIN)/python -m pytest -n auto --dist loadfile -m long $(PYTEST)

check: $(VENV)/.dev ## ruff, pyright, notebooks stripped, dependency lists agree
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check lib tests
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python -m pytest -q --durations=0 --no-header tests/test_project.py
	@if command -v node >/dev/null; then node --test tests/explorer/js/*.test.js; fi

format: $(VENV)/.dev ## sort imports and format lib and tests
	@$(BIN)/ruff check --fix --select I lib tests
	@$(BIN)/ruff format lib tests

miniatures: $(VENV)/.base ## train the miniatures that are missing (hours; resumable; AGAIN=1: all anew)
	@$(BIN)/visualheads train --all $(if $(AGAIN),--again)

constraints: $(VENV)/.dev ## write constraints.txt from the versions in .venv
	@$(BIN)/python .ci/constraints.py

# Traces of real models cost hours of a GPU, so `clean` keeps them.
clean: ## remove pages, the book, caches, the miniatures' traces; other models' traces stay
	rm -rf book/_build book/models book/results .pytest_cache .hypothesis .ruff_cache build
	for folder in data/results data/results-full; do rm -rf "$$folder"/mini-* "$$folder"/cost "$$folder"/traced.json; done
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name '*.egg-info' -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf
	find . -path ./$(VENV) -prune -o -type f -name '*.partial.ipynb' -print0 | xargs -0 rm -f

clean-all: clean ## … and all other traces (GPU runs too), and the virtual environment
	rm -rf data/results data/results-full $(VENV)
