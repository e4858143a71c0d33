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
CHECKS := $(VENV)/.checks-ready
INSTALL = $(PYTHON) "$(GENERATED)/scripts/install.py" --venv $(VENV)
COMPILE := uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help demo bake test test-long chaos bench lint format lock clean

help: ## list all commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock $(GENERATED)/requirements.lock
	@$(INSTALL) -r requirements.lock -r "$(GENERATED)/requirements.lock"
	@touch $@

$(CHECKS): tests/requirements-checks.lock $(GENERATED)/requirements-dev.lock $(READY)
	@$(INSTALL) -r tests/requirements-checks.lock -r "$(GENERATED)/requirements-dev.lock"
	@touch $@

demo: ## generate the default project and serve it: make demo [PORT=8000]
	@$(PYTHON) scripts/free_port.py "$(HOST)" "$(PORT)"
	@$(MAKE) --silent $(READY)
	@$(BIN)/python scripts/bake.py build
	@trap : INT; PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	cd build/my-bff && sh deploy/bff dev --host $(HOST) --port $(PORT); \
	status=$$?; [ $$status -eq 130 ] || exit $$status

bake: $(READY) ## generate the default project in build/ and install it
	@$(BIN)/python scripts/bake.py build
	@$(MAKE) --no-print-directory -C build/my-bff install

test: $(CHECKS) ## run all tests except long ones, on real servers: make test [ARGS="-k name"]
	@$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(CHECKS) ## run the long tests, before a release: chaos, browsers, every option
	@$(BIN)/python -m pytest -m long $(ARGS)

chaos: $(READY) ## inject faults into a deployment: make chaos [ARGS="--seed 7 --seconds 60"] [PROJECT=../shop-bff]
	@PYTHONPATH="$(CURDIR)/{{cookiecutter.project_slug}}" $(BIN)/python -m tests.chaos $(if $(PROJECT),--project "$(PROJECT)") $(ARGS)

bench: $(READY) ## run the benchmarks: make bench [ARGS=--quick]
	@$(BIN)/python benchmarks/run.py $(ARGS)

lint: $(CHECKS) ## run ruff and mypy on the template
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@cd "$(GENERATED)" && "$(CURDIR)/$(BIN)/mypy" --cache-dir "$(CURDIR)/.mypy_cache/project"

format: $(CHECKS) ## fix and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(READY) ## lock changed dependencies (needs uv and npm): make lock [UPGRADE=--upgrade]
	@$(BIN)/python scripts/bake.py build/lock
	@$(MAKE) --no-print-directory -C build/lock/my-bff lock UPGRADE=$(UPGRADE)
	@cp build/lock/my-bff/requirements.lock build/lock/my-bff/requirements-dev.lock "$(GENERATED)"
	$(COMPILE) --group dev --constraints "$(GENERATED)/requirements-dev.lock" --output-file requirements.lock
	$(COMPILE) --group checks --constraints requirements.lock --constraints "$(GENERATED)/requirements-dev.lock" --output-file tests/requirements-checks.lock
	$(COMPILE) --group nuropb --output-file tests/requirements-nuropb.lock
	$(COMPILE) --constraints "$(GENERATED)/requirements.lock" --output-file benchmarks/peers.lock benchmarks/peers.in
	$(COMPILE) --output-file benchmarks/gateway.lock benchmarks/gateway.in
	@$(BIN)/python scripts/npm_lock.py benchmarks/candidates tests/node tests/node/next tests/servers/identity_provider tests/engine/sign_in/keycloak

clean: ## remove generated files and virtual environments
	rm -rf build .venv .venv-project .venv-nuropb
