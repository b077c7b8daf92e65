# `make demo` and `make test` are all that a new user needs; both set up .venv once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# The first Python here that the package supports and that can make environments.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	>/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
VENV_LATEST := .venv-latest
PIP := -m pip --disable-pip-version-check --quiet install
READY := $(VENV)/.ready
READY_LATEST := $(VENV_LATEST)/.ready

export TF_CPP_MIN_LOG_LEVEL ?= 3
export MPLBACKEND ?= Agg

.PHONY: help venv demo test test-slow test-latest test-latest-quick test-tf1 lint bench \
	chaos chaos-quick fuzz mutate docs-images wheel-check clean

help:  ## What can be made
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

venv: $(READY)  ## The environment: TensorFlow 2.17.1 and every extra that the tests need

demo: $(READY)  ## The whole job on drawn faces, from images to predictions
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/demo.sh

test: $(READY)  ## The tests (under 10 minutes on 2 cores)
	$(VENV)/bin/python -m pytest -q

test-slow: $(READY)  ## The tests that take minutes each
	$(VENV)/bin/python -m pytest -q -m "slow and not tf1"

test-latest: $(READY_LATEST)  ## The tests on the newest TensorFlow
	$(VENV_LATEST)/bin/python -m pytest -q

test-latest-quick: $(READY_LATEST)  ## A short part of them
	$(VENV_LATEST)/bin/python -m pytest -q -m latest

test-tf1: $(READY) $(VENV)/tf1/.ready  ## Frozen graphs in the real TensorFlow 1.15 runtime
	AFAD_TF1_WHEEL_DIR="$(CURDIR)/$(VENV)/tf1" $(VENV)/bin/python -m pytest -q -m tf1

chaos: $(READY)  ## 200 seeded faults: kills, full disks, damaged files (at most an hour)
	$(VENV)/bin/python -m tests.robustness.chaos --faults=200 --minutes=60

chaos-quick: $(READY)  ## 40 of them, in at most 4 minutes
	$(VENV)/bin/python -m tests.robustness.chaos --faults=40 --minutes=3.5

fuzz: $(READY)  ## Arbitrary bytes into every reader, 10 minutes each, two at a time
	$(VENV)/bin/python -m tests.robustness.fuzz --minutes=10 --jobs=2

mutate: $(READY)  ## Do the tests notice 30 changed places?
	$(VENV)/bin/python -m tests.robustness.mutate

docs-images: $(READY)  ## The pictures in docs/, made by the commands from drawn faces
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" docs/make_images.sh

lint: $(READY)  ## Style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY)  ## The tables that the README quotes
	for b in write input augment train freeze; do \
		$(VENV)/bin/python benchmarks/$$b.py; done

wheel-check: $(READY)  ## The built wheel installs in a clean environment and answers
	tests/wheel_check.sh "$(VENV)/bin/python" "$(PYTHON)"

clean:  ## Remove what was made, environments included
	rm -rf $(VENV) $(VENV_LATEST) build dist demo *.egg-info .pytest_cache .ruff_cache \
		.mypy_cache .hypothesis
	find afad_tfdata bin tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(if $(PYTHON),,echo "No Python 3.10, 3.11 or 3.12 with venv found: install one, or name it: make PYTHON=/path/to/python"; exit 1)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) -c constraints.txt setuptools wheel
	$(VENV)/bin/python $(PIP) -c constraints.txt --no-build-isolation -e '.[fast,io,test,dev]'
	touch $@

# No constraints: the newest of everything, without tensorflow-io, which ends at 2.17.
$(READY_LATEST): setup.cfg pyproject.toml
	@$(if $(PYTHON),,echo "No Python 3.10, 3.11 or 3.12 with venv found: install one, or name it: make PYTHON=/path/to/python"; exit 1)
	test -x $(VENV_LATEST)/bin/python || $(PYTHON) -m venv $(VENV_LATEST)
	$(VENV_LATEST)/bin/python $(PIP) --upgrade setuptools wheel
	$(VENV_LATEST)/bin/python $(PIP) --upgrade --no-build-isolation -e '.[fast]' \
		hypothesis pillow pytest scipy
	touch $@

$(VENV)/tf1/.ready: $(READY)
	$(VENV)/bin/python -m tests.robustness.tf1_runtime $(VENV)/tf1
	touch $@
