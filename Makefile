# `make serve` and `make test` need only Python >= 3.11 and make; both create the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 3000
BIN := $(VENV)/bin
export BENTOML_DO_NOT_TRACK ?= True

.PHONY: serve test test-all fuzz check format clean

serve: $(VENV)/.core  ## serve the default bundle on http://localhost:$(PORT)
	$(BIN)/bentoml serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev  ## run the tests, except those marked slow
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-all: $(VENV)/.dev  ## run all tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "" $(ARGS)

fuzz: $(VENV)/.dev  ## fuzz everything that reads bytes from strangers, for ten minutes
	$(BIN)/python -m tests.fuzz.run --seconds 600 $(ARGS)

check: $(VENV)/.dev  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit("abnn_serve needs Python >= 3.11, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.core: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[lab,attacks,foreign,openvino,dev]'
	touch $@ $(VENV)/.core

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
