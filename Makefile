# Every target makes the virtual environment it needs; nothing but Python >= 3.11, git and make is assumed.
# The environment has two levels: `run` (what the demo imports) and `dev` (run + tests, linters, docs).

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python,$(if $(shell $(p) -c 'import sys; print(int(sys.version_info[:2] >= (3, 11)))' 2>/dev/null | grep 1),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
PLAN ?= full
OUT ?= runs/demo$(if $(filter small,$(PLAN)),-small)

# Constraints reach the isolated build of the package too (both spellings: pip changed its mind in 25.3).
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: environment core demo test peer lint types imports docs references check-references bench constraints clean help
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(VENV)/.level-run  ## run the demo (PLAN=small: no downloads, under a minute)
	$(BIN)/taskloom demo $(if $(filter small,$(PLAN)),--small) --output $(OUT)

test: $(VENV)/.level-dev  ## run the tests and doctests with coverage
	$(BIN)/pytest --cov --cov-report=term:skip-covered $(ARGS)

PEER := $(VENV)-peer
peer: $(PEER)/.level-peer  ## compare with mergekit 0.1.5 and fusion-bench, in an environment of its own
	$(PEER)/bin/python -m pytest -p no:cacheprovider -m peer $(shell grep -rl --include=*.py mark.peer tests) $(ARGS)

environment: $(VENV)/.level-dev  ## make the virtual environment with everything in it

core: | $(BIN)/python  ## install the package itself without extras (use with VENV=...)
	$(BIN)/python -m pip install --quiet .

lint: $(VENV)/.level-dev  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.level-dev  ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.level-dev  ## the rooms import one way only
	$(BIN)/lint-imports

docs: $(VENV)/.level-dev  ## build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

references: $(VENV)/.level-dev  ## regenerate the generated pages of docs/
	$(BIN)/python scripts/references.py

check-references: $(VENV)/.level-dev  ## fail if a generated page is out of date
	$(BIN)/python scripts/references.py --check

bench: $(VENV)/.level-dev  ## run every benchmark script
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

constraints: $(VENV)/.level-dev  ## write constraints.txt from what is installed
	$(BIN)/python scripts/constraints.py

clean:  ## remove the environments and everything built
	rm -rf $(VENV) $(PEER) site htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; set one with: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.level-run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[run]'
	@touch $@

$(VENV)/.level-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev,docs]'
	@touch $@ $(VENV)/.level-run

# torch as we pin it; whatever else mergekit needs as it asks for it
$(PEER)/.level-peer: pyproject.toml
	$(PYTHON) -m venv $(PEER)
	grep -E '^(torch|transformers|numpy)==' constraints.txt > $(PEER)/constraints.txt
	PIP_CONSTRAINT=$(abspath $(PEER)/constraints.txt) PIP_BUILD_CONSTRAINT=$(abspath $(PEER)/constraints.txt) \
		$(PEER)/bin/python -m pip install --quiet mergekit==0.1.5 pytest hypothesis -e '.[fast]'
	$(PEER)/bin/python -m pip install --quiet --no-deps fusion-bench==0.2.33
	@touch $@
