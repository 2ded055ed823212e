# `make serve` and `make test` are all that a newcomer needs; `make help` lists the rest. Nothing here needs root.
#
# Variables: PYTHON (python3.11), HOST and PORT of the server, ENGINE (auto, deepsparse, native, onnxruntime, openvino),
# MODELS, ARGS (passed on to the benchmark, the load test and pytest).

PYTHON ?= python3.11
HOST ?= 127.0.0.1
PORT ?= 8000
ENGINE ?= auto
MODELS ?= models
ARGS ?=
USERS ?= 8
SECONDS ?= 30

VENV := .venv
LATEST := .venv-latest
SPARSEML := .venv-sparseml
EXTRAS := train,robustness,serve,openvino,bench,dev
# DeepSparse's extra is empty where DeepSparse does not exist: other systems than Linux, Python 3.12 and later.
CONSTRAINTS := constraints-deepsparse.txt
INSTALL_INPUTS := pyproject.toml $(CONSTRAINTS)

# One process for each core, but no more than four; the tests of one file stay together, for they share what is costly.
PYTEST := -m pytest -m "not large" --numprocesses logical --maxprocesses 4 --dist loadfile

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-latest test-large sparseml lint format bench load doctor clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## serve the artifacts in models/ on 127.0.0.1:8000
	$(VENV)/bin/neurotrails serve --models $(MODELS) --host $(HOST) --port $(PORT) --engine $(ENGINE)

test: lint ## install everything, run the linters and every test (but the large ones)
	$(VENV)/bin/python $(PYTEST) $(ARGS)

test-latest: ## run the tests with the newest releases of everything, without DeepSparse, in .venv-latest
	@echo "Installing the newest releases into $(LATEST)"
	@test -x $(LATEST)/bin/pip || $(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[$(EXTRAS)]'
	$(LATEST)/bin/python $(PYTEST) $(ARGS)

test-large: $(VENV)/.all ## run the slow proofs that `make test` leaves out
	$(VENV)/bin/python -m pytest -m large $(ARGS)

sparseml: $(SPARSEML)/.all ## install SparseML into .venv-sparseml and test gradual pruning there
	NEUROTRAILS_SPARSEML=1 $(SPARSEML)/bin/python -m pytest tests/training/test_gradual_pruning.py $(ARGS)

lint: $(VENV)/.all ## check style and types
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m mypy

format: $(VENV)/.all ## put the source into the common format
	$(VENV)/bin/python -m ruff check --fix
	$(VENV)/bin/python -m ruff format

bench: $(VENV)/.all ## measure latency on this machine: table, JSON and plot in benchmarks/results/
	$(VENV)/bin/python benchmarks/cpu_latency.py $(ARGS)

load: $(VENV)/.all ## load a running server with users who check every answer: USERS=8 SECONDS=30
	$(VENV)/bin/python -m locust -f benchmarks/locustfile.py --host http://$(HOST):$(PORT) \
		--headless --users $(USERS) --spawn-rate $(USERS) --run-time $(SECONDS)s --only-summary $(ARGS)

doctor: $(VENV)/.serve ## show cores, engines and what is missing
	$(VENV)/bin/neurotrails doctor

clean: ## remove all environments, caches and build output; runs/ and models/ stay
	rm -rf $(VENV) $(LATEST) $(SPARSEML) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than everything that an installation depends on, so an installation happens once. Pip only adds: an
# environment made for serving becomes the one for testing. `bin/pip` is the last thing that venv writes.
$(VENV)/.serve: $(INSTALL_INPUTS)
	@echo "Installing what serving needs into $(VENV)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[serve,deepsparse]'
	@touch $@

$(VENV)/.all: $(INSTALL_INPUTS)
	@echo "Installing everything into $(VENV)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS),deepsparse]'
	@touch $@ $(VENV)/.serve

# NEUROTRAILS_SPARSEML=1 (above) makes the tests that need SparseML fail, not skip, if it is missing.
$(SPARSEML)/.all: $(INSTALL_INPUTS)
	@echo "Installing SparseML and what training needs into $(SPARSEML)"
	@test -x $(SPARSEML)/bin/pip || $(PYTHON) -m venv $(SPARSEML)
	$(SPARSEML)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[train,sparseml,dev]'
	@touch $@
