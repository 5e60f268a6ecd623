# Every command that people and CI run. Needs only Python 3.11 or newer; installs uv into .venv.
#
#   make run ARGS="--port 0"      ARGS are options for the target's command
#   make run PYTHON=python3.12    use another Python

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
UV := UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=$(VENV) VIRTUAL_ENV= $(BIN)/uv sync --quiet --frozen --inexact
LOCKED := pyproject.toml uv.lock
ARGS ?=

.PHONY: help run demo audit test check lint format types imports dependencies bench faults mutants clean parts dev

help:
	@echo 'make run      start everything on this machine: API, worker, PostgreSQL, sandbox (Ctrl-C stops it)'
	@echo 'make demo     play a day of a shop with 50,000 users, on the Tidings that runs here'
	@echo 'make test     run all tests'
	@echo 'make check    check formatting, lint, types, imports and dependencies'
	@echo 'make audit    look for known vulnerabilities of the locked dependencies'
	@echo 'make bench    measure the figures that the README claims'
	@echo 'make faults   run the tests that kill processes and cut connections: ten minutes on each queue, three Kafka brokers'
	@echo 'make mutants  change policy/, pipeline/ and services/ in many small ways and list the changes that no unit test notices'
	@echo 'make clean    remove .venv and caches; the data in tidings-data stays'
	@echo
	@echo 'Put options into ARGS: make run ARGS="--port 0 --data-dir /somewhere"'

run: $(VENV)/installed-run
	@$(BIN)/tidings up $(ARGS) || { code=$$?; \
	  if [ $$code = 2 ]; then echo 'Put options into ARGS, for example: make run ARGS="--port 0"' >&2; fi; exit $$code; }

demo: $(VENV)/installed-demo
	@$(BIN)/tidings demo $(ARGS)

test: dev parts
	@$(BIN)/pytest $(ARGS)

check: lint format types imports dependencies

lint: dev
	$(BIN)/ruff check

format: dev
	$(BIN)/ruff format --check

types: dev
	$(BIN)/mypy

imports: dev
	$(BIN)/lint-imports

dependencies: dev
	$(BIN)/deptry .

audit: dev
	@mkdir -p .cache
	@$(BIN)/uv export --quiet --frozen --no-emit-project --format requirements-txt --output-file .cache/locked.txt
	@$(BIN)/uv tool run --from pip-audit==2.10.1 pip-audit --requirement .cache/locked.txt --disable-pip --strict

bench: $(VENV)/installed-bench
	@sh .ci/smtp-sink
	@$(BIN)/python -m bench $(ARGS)

faults: dev parts
	@$(BIN)/pytest tests/faults --minutes 10 $(ARGS)
	@$(BIN)/pytest tests/conformance/test_queue*.py tests/faults -k "kafka and not storm" --brokers 3

# One file: make mutants ARGS='"tidings.policy.retry.*"'. A run continues the last one; `mutmut show NAME` shows a mutant.
MINUTES ?= 30
mutants: $(VENV)/installed-mutants
	@timeout $(MINUTES)m nice $(BIN)/mutmut run --max-children 2 $(ARGS) || [ $$? = 124 ]
	@$(BIN)/mutmut results

clean:
	rm -rf $(VENV) mutants .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

dev: $(VENV)/installed-dev

# Installs what the tests need besides Python, or names it where it cannot. Tests that need a missing part are skipped
# and listed at the end; in CI they fail.
parts:
	@sh .ci/parts

$(VENV)/installed-run: $(BIN)/uv $(LOCKED)
	@$(UV) --no-dev
	@touch $@

$(VENV)/installed-demo: $(BIN)/uv $(LOCKED)
	@$(UV) --no-dev --extra demo
	@touch $@

$(VENV)/installed-dev: $(BIN)/uv $(LOCKED)
	@$(UV) --extra demo --group bench
	@touch $@

$(VENV)/installed-bench: $(BIN)/uv $(LOCKED)
	@$(UV) --extra demo --group bench
	@touch $@

$(VENV)/installed-mutants: $(BIN)/uv $(LOCKED)
	@$(UV) --extra demo --group bench --group mutants
	@touch $@

$(BIN)/uv:
	@PYTHON="$(PYTHON)" sh .ci/python $(VENV)
