# Everything that people and CI run. It needs Python 3.11 or newer and nothing else; uv is installed into .venv.
#
#   make run ARGS="--port 0"      options of the command behind a target go into ARGS
#   make run PYTHON=python3.12    another Python

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
UV := UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=$(VENV) VIRTUAL_ENV= $(BIN)/uv sync --quiet --frozen --inexact
LOCKED := pyproject.toml uv.lock
ARGS ?=

.PHONY: help run demo audit test check lint format types imports dependencies bench faults mutants clean parts dev

help:
	@echo 'make run     start everything on this machine: API, worker, PostgreSQL, sandbox (Ctrl-C stops it)'
	@echo 'make demo    a shop with 50,000 people and a day of orders, against what runs'
	@echo 'make test    all tests'
	@echo 'make check   formatting, lint, types, imports, dependencies'
	@echo 'make audit   known vulnerabilities of the locked dependencies'
	@echo 'make bench   the figures that the README claims'
	@echo 'make faults  the tests that kill and cut things: ten minutes of storm on each queue, three Kafka brokers'
	@echo 'make mutants  change policy/ and pipeline/ a little in many ways, and name the changes that no unit test sees'
	@echo 'make clean   remove .venv and caches; the data in tidings-data stays'
	@echo
	@echo 'Options go into ARGS: make run ARGS="--port 0 --data-dir /somewhere"'

run: $(VENV)/installed-run
	@$(BIN)/tidings up $(ARGS) || { code=$$?; \
	  if [ $$code = 2 ]; then echo 'Options go into ARGS, as in: make run ARGS="--port 0"' >&2; fi; exit $$code; }

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
	@$(BIN)/python -m bench $(ARGS)

faults: dev parts
	@$(BIN)/pytest tests/faults --minutes 10 $(ARGS)
	@$(BIN)/pytest tests/conformance/test_queue.py tests/faults/test_queue_kafka*.py -k kafka --brokers 3

# One file: make mutants ARGS='"tidings.policy.retry.*"'. It goes on where it was ended; `mutmut show NAME` tells one.
MINUTES ?= 30
mutants: $(VENV)/installed-mutants
	@timeout $(MINUTES)m nice $(BIN)/mutmut run --max-children 2 $(ARGS) || [ $$? = 124 ]
	@$(BIN)/mutmut results

clean:
	rm -rf $(VENV) mutants .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

dev: $(VENV)/installed-dev

# What the tests need besides Python: brought where that is possible, named where it is not. Those that need a part
# that is missing are skipped and listed at the end (in CI they fail).
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
