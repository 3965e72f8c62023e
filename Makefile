# Every command installs what it needs into .venv; as root on Debian also the servers, from its packages.
PYTHON ?= python3
BIN := .venv/bin
# What needs a Docker Engine goes to one worker, the rest to another: see tests/conftest.py.
BESIDE := --numprocesses 2 --dist loadscope

.PHONY: demo dev test test-fast check bench install
.DELETE_ON_ERROR:

install: .venv/installed

.venv/installed: setup.py constraints.txt infrastructure/debian.sh
	infrastructure/debian.sh
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $@

demo: install
	$(BIN)/python -m demo

dev: install
	$(BIN)/python -m demo.dev

test: install
	$(BIN)/python -m pytest $(BESIDE)

test-fast: install
	$(BIN)/python -m pytest $(BESIDE) -m 'not slow'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	infrastructure/check.sh

bench: install
	$(BIN)/python -m bench
