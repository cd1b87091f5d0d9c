# `make study` and `make test` work in a fresh clone with git, make and Python >= 3.11, and nothing else.

.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
unexport PYTHONDONTWRITEBYTECODE  # the programs that tests start would compile the library again, each

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

.PHONY: study
study: $(VENV)/.study ## measure the error against the number of model calls on the bundled klein-emoji (about two minutes after the setup)
	$(BIN)/flowsamplers study

.PHONY: test
test: $(VENV)/.dev ## run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: browser
browser: ## chromium for the tests of the site, from Debian; they are skipped where there is none
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || \
	  echo "make: no chromium, and it could not be installed; the browser tests will be skipped" >&2

.PHONY: lint
lint: $(VENV)/.dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev ## pyright, strict
	$(BIN)/pyright

.PHONY: docs
docs: $(VENV)/.dev ## build the site, strictly
	$(BIN)/mkdocs build --strict --quiet

.PHONY: serve
serve: $(VENV)/.dev ## look at the site while writing it
	$(BIN)/mkdocs serve

.PHONY: measured
measured: $(VENV)/.dev ## measure a sampler, a schedule or a table again: make measured NAME=heun
	@test -n "$(NAME)" || { echo "make: give NAME, a sampler, a schedule or a table: $(patsubst tools/build_%.py,%,$(wildcard tools/build_*.py))" >&2; exit 2; }
	$(BIN)/python tools/measured.py "$(NAME)"

.PHONY: versions
versions: $(VENV)/.dev ## run the integration's tests with the oldest, the newest and another diffusers, each in an environment of its own
	$(BIN)/python tools/test_versions.py

.PHONY: ray
ray: $(VENV)/ray/.ready ## run the tests of a study on a Ray cluster, in an environment of its own
	$(VENV)/ray/bin/python -m pytest tests/test_study_ray.py

.PHONY: comfyui
comfyui: $(VENV)/.dev ## beside a real ComfyUI: make comfyui AT=PATH, with what it imports installed (CONTRIBUTING)
	FLOWSAMPLERS_COMFYUI=$(AT) FLOWSAMPLERS_COMFYUI_RECORD=docs/reference/comfyui.json \
	  $(BIN)/python -m pytest tests/test_comfyui_real.py tests/test_comfyui_executor.py
	$(BIN)/python tools/build_names.py

.PHONY: clean
clean: ## remove what was set up and built
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.study: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e ".[all]"
	@touch $@

$(VENV)/ray/.ready: $(INPUTS)
	$(PYTHON) -m venv $(VENV)/ray
	$(VENV)/ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray,testing]"
	@touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.study
