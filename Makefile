# Two commands on a bare machine: `make quickstart` and `make test`. They need Python 3.11 or newer
# and make; everything else is installed into .venv with plain pip, from wheels alone.

VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := torch>=2.11,<2.14
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --only-binary=:all:
# The first of these that is new enough makes the environment; `make PYTHON=...` overrides it.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: quickstart test soak lint type format clean help

help:
	@echo 'make quickstart  set up .venv and run the whole chain: problems to evaluated student'
	@echo 'make test        set up .venv with the tools of development; lint, type check, tests'
	@echo 'make soak        the long versions of sampled tests'
	@echo 'make lint type   ruff; mypy --strict'
	@echo 'make format      let ruff rewrite the code'
	@echo 'make clean       remove .venv and what builds leave behind; runs/ stays'

quickstart: $(VENV)/.core
	$(BIN)/r1kit run quickstart

test: $(VENV)/.dev lint type
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m soak $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The repository is the package, so the type checker finds it through a link of the package's name.
type: $(VENV)/.dev
	@mkdir -p $(VENV)/link && ln -sfn "$(CURDIR)" $(VENV)/link/r1kit
	cd $(VENV)/link && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -p r1kit

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist r1kit.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.core: pyproject.toml $(VENV)/.torch
	@echo 'setup: installing r1kit and what it needs (about 130 MB)'
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.core
	@echo 'setup: installing the tools of development (about 150 MB)'
	@$(PIP) -e '.[dev]'
	@touch $@

# Without an NVIDIA GPU the CPU build of torch is asked for once; elsewhere, or where its index does
# not answer, pip takes what its own index offers.
$(VENV)/.torch: | $(VENV)/.made
	@if command -v nvidia-smi >/dev/null 2>&1 || [ -e /dev/nvidia0 ]; then \
		echo 'setup: an NVIDIA GPU is here; installing torch for CUDA (about 3 GB)'; \
		$(PIP) '$(TORCH)'; \
	else \
		echo 'setup: no NVIDIA GPU; trying the CPU build of torch (about 200 MB)'; \
		$(PIP) --timeout 8 --retries 0 --index-url $(CPU_INDEX) '$(TORCH)' 2>/dev/null || { \
			echo 'setup: $(CPU_INDEX) does not answer;'; \
			echo '       going on with the default index (200 MB for a CPU build, about 3 GB for CUDA)'; \
			$(PIP) '$(TORCH)'; \
		}; \
	fi
	@touch $@

$(VENV)/.made:
	@if [ -z "$(PYTHON)" ]; then \
		echo 'r1kit needs Python 3.11 or newer, and found none; install one, or name it: make PYTHON=/path/to/python3.12'; \
		exit 2; fi
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { \
		echo '$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv'; exit 2; }
	@touch $@
