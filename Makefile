# A new user needs `make demo` and `make test` only.  Both create .venv if it is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# The first Python on the PATH that the package supports and that can create environments.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	>/dev/null 2>&1 && echo $$p && break; done)
# The newest TensorFlow may run on a newer Python than the pinned one does.
PYTHON_LATEST ?= $(shell for p in python3.13 $(PYTHON); do \
	$$p -c 'import ensurepip, venv' >/dev/null 2>&1 && echo $$p && break; done)
# What wheel-check tries; see tests/wheel_check.sh.
EXTRAS ?= bare
# What gpu-check checks, such as cpu:2; empty for all GPUs.  Where its results go.
DEVICES ?=
GPU_CHECK_DIR ?= gpu_check
# After so many minutes it gives up what has not ended.
MINUTES ?= 8
# What bundle packs (without cuda: for the CPU), where to, and in parts of which size.
BUNDLE_EXTRAS ?= fast,cuda
BUNDLE_DIR ?= dist/bundle
BUNDLE_PART_MB ?= 1900
VENV := .venv
VENV_LATEST := .venv-latest
PIP := -m pip --disable-pip-version-check --quiet install
READY := $(VENV)/.ready
READY_LATEST := $(VENV_LATEST)/.ready

export TF_CPP_MIN_LOG_LEVEL ?= 3
export MPLBACKEND ?= Agg

.PHONY: help venv demo test test-training test-rest test-slow test-latest test-latest-quick test-tf1 test-tf1-all lint bench \
	chaos chaos-quick fuzz mutate notebook docs docs-code docs-images gpu-check bundle \
	wheel-check wheel-check-all clean

help:  ## List the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

venv: $(READY)  ## Create .venv with TensorFlow 2.17.1 and every extra that the tests need

demo: $(READY)  ## Run every command on drawn faces, from images to predictions
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/demo.sh

# Two processes, because most tests use one core.  Those of the trainings take the longest.
test: $(READY)  ## Run the tests (in two processes; half an hour on 2 cores)
	$(MAKE) --no-print-directory --jobs=2 test-training test-rest

test-training: $(READY)
	$(VENV)/bin/python -m pytest -q tests/training

test-rest: $(READY)
	$(VENV)/bin/python -m pytest -q --ignore=tests/training

test-slow: $(READY)  ## Run the tests that take minutes each
	$(VENV)/bin/python -m pytest -q -m "slow and not tf1"

test-latest: $(READY_LATEST)  ## Run the tests on the newest TensorFlow, in .venv-latest
	$(VENV_LATEST)/bin/python -m pytest -q

test-latest-quick: $(READY_LATEST)  ## Run the central tests on the newest TensorFlow
	$(VENV_LATEST)/bin/python -m pytest -q -m latest

test-tf1: $(READY) $(VENV)/tf1/.ready  ## Run frozen graphs in TensorFlow 1.15, which is downloaded
	AFAD_TF1_WHEEL_DIR="$(CURDIR)/$(VENV)/tf1" $(VENV)/bin/python -m pytest -q -m tf1

test-tf1-all: $(READY) $(VENV)/tf1/.ready  ## Run every backbone in TensorFlow 1.15 and in OpenCV
	$(VENV)/bin/python -m tests.robustness.tf1_backbones --wheel_dir=$(VENV)/tf1

chaos: $(READY)  ## Run the commands under 200 faults: kills, full disks, damaged files
	$(VENV)/bin/python -m tests.robustness.chaos --faults=200 --minutes=60

chaos-quick: $(READY)  ## Run them under 40 faults, or as many as 3.5 minutes allow
	$(VENV)/bin/python -m tests.robustness.chaos --faults=40 --minutes=3.5

fuzz: $(READY)  ## Pass arbitrary bytes to every reader, for 10 minutes each
	$(VENV)/bin/python -m tests.robustness.fuzz --minutes=10 --jobs=2

mutate: $(READY)  ## Change the package in 30 places, and count what the tests notice
	$(VENV)/bin/python -m tests.robustness.mutate

notebook: $(READY)  ## Run examples/first_steps.ipynb in a temporary folder
	$(VENV)/bin/python -m pytest -q -m slow tests/examples/test_first_steps.py

docs-code: $(READY)  ## Run the code in the docs: a few minutes
	$(VENV)/bin/python -m pytest -q -m slow tests/docs/test_blocks.py

docs: $(VENV)/.docs-ready  ## Build the site of the docs in site/, and check its links
	rm -rf site
	$(VENV)/bin/sphinx-build -E -W --keep-going -q -c docs/sphinx -d build/doctrees . site
	$(VENV)/bin/python docs/sphinx/check_links.py site
	@echo "open site/index.html"

docs-images: $(READY)  ## Draw the pictures in docs/images
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" docs/make_images.sh

lint: $(READY)  ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY)  ## Print the tables of speed that the README quotes
	for b in write input augment train freeze; do \
		$(VENV)/bin/python benchmarks/$$b.py; done

# With a driver, the CUDA libraries are installed, too: 3 GB.
gpu-check: $(READY)  ## Try and measure training on the GPUs here (DEVICES=cpu:2: without)
	test ! -e /proc/driver/nvidia/version || \
		$(VENV)/bin/python $(PIP) -c constraints.txt --no-build-isolation -e '.[cuda]'
	$(VENV)/bin/python bin/gpu_check.py --devices="$(DEVICES)" \
		--output_dir="$(GPU_CHECK_DIR)" --minutes="$(MINUTES)"

bundle: $(READY)  ## Pack gpu-check with all wheels for a machine without network
	examples/bundle/make.sh "$(VENV)/bin/python" "$(BUNDLE_DIR)" "$(BUNDLE_EXTRAS)" \
		"$(BUNDLE_PART_MB)"

wheel-check: $(READY)  ## Build the wheel, install it in a new environment, run its commands
	tests/wheel_check.sh "$(VENV)/bin/python" "$(PYTHON)" $(EXTRAS)

wheel-check-all:  ## Do the same without and with each extra, and try what each promises
	$(MAKE) wheel-check EXTRAS="bare latest fast faces remote io tfds export beam tensorboard croissant keras-hub"

clean:  ## Remove everything that make created, environments included
	rm -rf $(VENV) $(VENV_LATEST) build dist demo site $(GPU_CHECK_DIR) *.egg-info \
		.pytest_cache .ruff_cache .mypy_cache .hypothesis
	find afad_tfdata bin tests benchmarks docs examples -name __pycache__ -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(if $(PYTHON),,echo "found no Python 3.10, 3.11 or 3.12 with venv: install one, or run make PYTHON=/path/to/python"; exit 1)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) -c constraints.txt setuptools wheel
	$(VENV)/bin/python $(PIP) -c constraints.txt --no-build-isolation -e '.[fast,io,test,dev]'
	touch $@

# Without constraints: the newest versions.  tensorflow-io needs TensorFlow 2.17.
$(READY_LATEST): setup.cfg pyproject.toml
	@$(if $(PYTHON_LATEST),,echo "found no Python 3.10 to 3.13 with venv: install one, or run make PYTHON_LATEST=/path/to/python"; exit 1)
	test -x $(VENV_LATEST)/bin/python || $(PYTHON_LATEST) -m venv $(VENV_LATEST)
	$(VENV_LATEST)/bin/python $(PIP) --upgrade setuptools wheel
	$(VENV_LATEST)/bin/python $(PIP) --upgrade --no-build-isolation -e '.[fast]' \
		hypothesis pillow pytest scipy
	touch $@

# Sphinx is no part of the tests' environment.
$(VENV)/.docs-ready: $(READY)
	$(VENV)/bin/python $(PIP) -c constraints.txt --no-build-isolation -e '.[docs]'
	touch $@

$(VENV)/tf1/.ready: $(READY)
	$(VENV)/bin/python -m tests.robustness.tf1_runtime $(VENV)/tf1
	touch $@
