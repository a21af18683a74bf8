# Each target sets up what it needs in .venv and is quick the second time.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: chat run train read test check bench screens

chat: .venv/.chat
	@$(BIN)/python -m bot

# On every platform whose token is in the environment or in .env; without any, as chat.
run: .venv/.chat
	@$(BIN)/python -m bot

train: .venv/.train
	@$(BIN)/python -m trainer

read: .venv/.chat
	@$(BIN)/python -m trainer read $(VERSION)

test: .venv/.dev
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m trainer lint data/daiyu

bench: .venv/.bench
	@$(BIN)/python -m benchmarks.serve
	@$(BIN)/python -m benchmarks.train
	@$(BIN)/python -m benchmarks.telegram
	@$(BIN)/python -m benchmarks.platforms
	@$(BIN)/python -m benchmarks.loop --people 60 --nights 2

# The pictures of the README: she talks on a stand-in for Telegram.
screens: .venv/.bench
	@$(BIN)/python -m tests.fakes.screens

.venv/.python:
	@command -v $(PYTHON) >/dev/null || { echo "daiyu: needs Python 3.11 or newer; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "daiyu: needs Python 3.11 or newer ($$($(PYTHON) -V) found); set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.chat: .venv/.python $(INPUTS)
	@echo "daiyu: installing (about 200 MB, once) ..." >&2
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

# On Linux without a GPU the CPU build of torch, which is a tenth of the size.
.venv/.train: .venv/.chat
	@echo "daiyu: installing torch and its company (about 1 GB on a CPU, once) ..." >&2
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(PIP) install --quiet "torch==$(TORCH)+cpu" 2>/dev/null || \
		$(PIP) install --quiet --index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH)"; \
	fi
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[train]"
	@touch $@

.venv/.dev: .venv/.train
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

.venv/.bench: .venv/.train
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[bench]"
	@touch $@
