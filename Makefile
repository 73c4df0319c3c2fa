# make demo | make test: each makes .venv and installs what it needs, once; nothing changed, nothing installed.
#   PYTHON=python3.12   the Python to make .venv with (3.11 to 3.14; default: the first suitable one on PATH)
#   ARGS="..."          more arguments for the command: make demo ARGS="out=runs/x", make test ARGS="-k split"

VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14)

# PyPI's torch for Linux is the CUDA build, 3 GB with its libraries. A machine without an NVIDIA driver takes the CPU build
# of the same version from here when it can be reached. `make TORCH_CPU= ...` always takes PyPI's.
TORCH_CPU := https://download.pytorch.org/whl/cpu/torch/

# Also for packages that pip builds: older pips take PIP_CONSTRAINT there, newer ones PIP_BUILD_CONSTRAINT.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint types bench versions install-demo install-test clean

help:
	@echo "make demo        run the whole pipeline on a small corpus (ray_jobs/configs/demo.yaml)"
	@echo "make test        lint, types, and all tests but the slow ones and those that need a GPU"
	@echo "make test-slow   the slow tests    make test-gpu   those that need a GPU"
	@echo "make bench       check the performance claims at a small size; those of a GPU where there is one"
	@echo "make lint | types | versions | install-demo | install-test | clean (.venv and caches, never runs/)"

demo: install-demo
	$(BIN)/patentft run ray_jobs/configs/demo.yaml $(ARGS)

test: versions lint types
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-slow: install-test
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

test-gpu: install-test
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: install-test
	$(BIN)/ruff check .

types: install-test
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install-test
	@mkdir -p runs/bench; failed=""; \
	for script in benchmarks/[!_]*.py; do \
		echo "== $$script"; \
		$(BIN)/python $$script --quick --out runs/bench/$$(basename $$script .py).json || failed="$$failed $$script"; \
	done; \
	if [ -n "$$failed" ]; then echo "claims that do not hold:$$failed" >&2; exit 1; fi

versions: install-test
	@$(BIN)/python -c 'import platform; print("python", platform.python_version(), platform.platform())'
	@$(BIN)/python -m pip freeze --exclude-editable | grep -iE '^(torch|ray|transformers|peft|deepspeed|bitsandbytes|faiss-cpu|numpy)=='
	@c++ --version | sed -n 1p

install-demo: $(VENV)/.installed-demo
install-test: $(VENV)/.installed-test

$(VENV)/.installed-demo: EXTRAS := demo,report
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL)
	@touch $@

$(VENV)/.installed-test: EXTRAS := demo,report,s3,dev
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL)
	@touch $@ $(VENV)/.installed-demo

define INSTALL
@links=""; \
if [ -n "$(TORCH_CPU)" ] && [ "$$(uname -s)" = Linux ] && [ ! -e /proc/driver/nvidia/version ] \
	&& ! command -v nvidia-smi >/dev/null \
	&& $(BIN)/python -c 'import urllib.request as r; r.urlopen("$(TORCH_CPU)", timeout=10)' 2>/dev/null; \
then links="--find-links $(TORCH_CPU)"; fi; \
set -x; $(BIN)/python -m pip install $$links torch==2.13.0 -e '.[$(EXTRAS)]'
endef

$(BIN)/python:
	@python=""; for candidate in $(CANDIDATES); do \
		if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; \
		then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "patentft needs Python 3.11, 3.12, 3.13 or 3.14; found none as: "$(CANDIDATES) >&2; \
		echo "Install one, or say where it is: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$python ($$($$python --version))"; $$python -m venv $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find patentft ray_jobs benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
