# `make` lists the commands. A fresh machine needs Python 3.11 or later with venv, make and git.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
PROJECT ?=
UPGRADE ?=

export RUFF_CACHE_DIR := $(CURDIR)/.ruff_cache
GENERATED := {{cookiecutter.project_slug}}
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes
COMPILE := uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help demo bake test test-long chaos bench lint format lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock $(GENERATED)/requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is %d.%d; try: make PYTHON=python3.13" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "Installing what the template needs into $(VENV) ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.lock -r "$(GENERATED)/requirements-dev.lock"
	@touch $@

demo: ## bake the default project and run it: make demo [PORT=8000]
	@$(PYTHON) scripts/free_port.py "$(HOST)" "$(PORT)"
	@$(MAKE) --silent $(READY)
	@$(BIN)/python scripts/bake.py build
	@trap : INT; PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	cd build/my-bff && sh deploy/bff dev --host $(HOST) --port $(PORT); \
	status=$$?; [ $$status -eq 130 ] || exit $$status

bake: $(READY) ## the default project in build/, installed and ready to run
	@$(BIN)/python scripts/bake.py build
	@$(MAKE) --no-print-directory -C build/my-bff install

test: $(READY) ## run every test on real servers: make test [ARGS="-k name"]
	@$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(READY) ## before a release: what takes minutes by nature, chaos, browsers, every option
	@$(BIN)/python -m pytest -m long $(ARGS)

chaos: $(READY) ## break a whole deployment: make chaos [ARGS="--seed 7 --seconds 60"] [PROJECT=../shop-bff]
	@PYTHONPATH="$(CURDIR)/{{cookiecutter.project_slug}}" $(BIN)/python -m tests.chaos $(if $(PROJECT),--project "$(PROJECT)") $(ARGS)

bench: $(READY) ## measure the template beside its peers: make bench [ARGS=--quick]
	@$(BIN)/python benchmarks/run.py $(ARGS)

lint: $(READY) ## ruff and mypy, over the template's Python where it lies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@cd "$(GENERATED)" && "$(CURDIR)/$(BIN)/mypy" --cache-dir "$(CURDIR)/.mypy_cache/project"

format: $(READY) ## put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(READY) ## after a change of dependencies (needs uv): make lock [UPGRADE=--upgrade]
	@$(BIN)/python scripts/bake.py build/lock
	@$(MAKE) --no-print-directory -C build/lock/my-bff lock UPGRADE=$(UPGRADE)
	@cp build/lock/my-bff/requirements.lock build/lock/my-bff/requirements-dev.lock "$(GENERATED)"
	$(COMPILE) --group dev --constraints "$(GENERATED)/requirements-dev.lock" --output-file requirements.lock
	$(COMPILE) --group nuropb --output-file tests/requirements-nuropb.lock
	$(COMPILE) --constraints "$(GENERATED)/requirements.lock" --output-file benchmarks/peers.lock benchmarks/peers.in
	$(COMPILE) --output-file benchmarks/gateway.lock benchmarks/gateway.in
	npm install --prefix benchmarks/candidates --package-lock-only --omit-lockfile-registry-resolved --no-fund --no-audit

clean: ## remove what was made
	rm -rf build .venv .venv-project .venv-nuropb
