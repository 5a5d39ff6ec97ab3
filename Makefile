# Every target runs on a fresh clone: Python 3.11 or newer, make and git are enough.
# Packages come from locks of versions and hashes (requirements/*.lock) into .venv.
# Arguments: PYTHON (interpreter for .venv), WORKERS (test processes), ARGS (passed on),
# SECONDS (of fuzzing, in all).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2
ARGS ?=
SECONDS ?= 60

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)

# Another project's path must not decide what is imported here, and pyright must run on
# the Node that its locked wheel carries, whatever the machine has.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# An announcement of the theme, which would bury the warnings of a build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-system check lint dead-code format types layers docs-check api hooks \
	docs coverage thorough interrupts kills crash fuzz mutation bench bench-growth bench-proof dist lock env clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

demo: .venv/.project  ## the main job on real input, and what it proved
	$(BIN)/batpak demo $(ARGS)

test: lint types layers  ## everything that must pass to merge
	$(PYTEST) --full --hypothesis-profile=ci --junitxml=build/test.xml $(ARGS)

test-system: .venv/.docs  ## what needs a network, root, or tools that no lock brings
	$(PYTEST) -v tests/system --junitxml=build/test-system.xml $(ARGS)

check: lint types layers  ## the fast part of test
	$(PYTEST) tests/unit $(ARGS)

lint: dead-code  ## format, lint and dead code, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

dead-code: .venv/.dev  ## what nothing uses
	$(BIN)/python -m tools.dead_code

format: .venv/.dev  ## write what lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev  ## pyright, strict
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: .venv/.dev  ## who may import whom
	$(BIN)/lint-imports --no-cache --no-logo

docs-check: .venv/.dev  ## run the code in README.md and docs/, list what is not run
	$(BIN)/python -m tools.docs_code
	$(PYTEST) tests/e2e/test_docs_code.py $(ARGS)

api: .venv/.dev  ## accept the public surface as it is now: write docs/api.txt, show the changes
	$(BIN)/python -m tools.api_snapshot

hooks: .venv/.dev  ## run the fast checks before each commit of this clone
	$(BIN)/pre-commit install

# Not --quiet: it would hide warnings from --strict as well.
docs: .venv/.docs  ## the documentation as a site, strictly, in build/site
	$(BIN)/mkdocs build --strict

coverage: .venv/.dev  ## branch coverage of src/batpak, as a table and build/coverage
	@mkdir -p build/coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

thorough: .venv/.dev  ## the property tests with many random examples
	$(PYTEST) tests/property --hypothesis-profile=thorough $(ARGS)

interrupts: .venv/.dev  ## Ctrl-C at every point, races and histories at length: half an hour
	BATPAK_EXHAUSTIVE=1 $(PYTEST) tests/threads -rP $(ARGS)

kills: .venv/.dev  ## thousands of writers killed; ARGS="--rounds 3000 --seed 1"
	$(BIN)/python -m tests.support.killing $(ARGS)
crash: .venv/.dev  ## power cuts in every place; ARGS="--states 100000 --seed 1"
	$(BIN)/python -m tools.crash --workers $(WORKERS) $(ARGS)
fuzz: .venv/.fuzz  ## random bytes for every decoder, SECONDS=60 in all
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

mutation: .venv/.dev  ## break the code 300 times, see how often a test notices; ARGS="--seed 1"
	$(BIN)/python -m tools.mutation --workers $(WORKERS) $(ARGS)

bench: .venv/.bench  ## the speed budgets beside their peers
	$(BIN)/python -m benchmarks $(ARGS)

bench-growth: .venv/.dev  ## what an event costs as the journal grows (ARGS="--keys --to 10000000")
	$(BIN)/python -m benchmarks.growth $(ARGS)

bench-proof: .venv/.dev  ## what signing and proving cost (ARGS="--rounds 1 --leaves 100000")
	$(BIN)/python -m benchmarks.proof $(ARGS)

dist: .venv/.project  ## wheel and source archive in build/dist
	$(BIN)/python -m hatchling build -d build/dist

lock: .venv/.lock  ## compile requirements/*.in again; ARGS=--upgrade for newer versions
	tools/lock.sh $(CURDIR)/$(BIN)/uv $(ARGS)

env: .venv/.dev  ## only make .venv

clean:  ## remove what these targets made
	rm -rf .venv build benchmarks/peers/rust/Cargo.lock .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

# One environment, filled in steps, so that the demo waits for no test tool.
# A stamp is written last: an interrupted install is done again.

.venv/.base: requirements/run.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "batpak needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test ! -L .venv || \
		{ echo ".venv is a link, and what it leads to would be emptied: remove the link" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --require-hashes -r $<
	@touch $@

.venv/.project: .venv/.base pyproject.toml
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.project requirements/dev.lock
	$(PIP) install --quiet --require-hashes -r requirements/dev.lock
	@touch $@

.venv/.docs: .venv/.dev requirements/docs.lock
	$(PIP) install --quiet --require-hashes -r requirements/docs.lock
	@touch $@

.venv/.bench: .venv/.dev requirements/bench.lock
	$(PIP) install --quiet --require-hashes -r requirements/bench.lock
	@touch $@

.venv/.fuzz: .venv/.dev requirements/fuzz.lock
	$(PIP) install --quiet --require-hashes -r requirements/fuzz.lock
	@touch $@

.venv/.lock: .venv/.base requirements/lock.lock
	$(PIP) install --quiet --require-hashes -r requirements/lock.lock
	@touch $@
