# make demo and make test set everything up on a machine with Python 3.10 or later and a network, and are quick afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

# TensorRT-RTX builds engines without a GPU. Its packages are for Python 3.12 on x86-64 (tried: Linux).
PYTHON312 ?= $(shell for p in python3.12 "$$HOME"/.pyenv/versions/3.12.*/bin/python; do "$$p" -c '' 2>/dev/null && echo "$$p" && break; done)
RTX := .venv-rtx
RTX_PACKAGES := tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116

# timm and torchvision in a folder of their own: transformers would use torchvision, which does not fit PyTorch's CPU build.
TIMM := .timm
TIMM_PACKAGES := timm==1.0.31 torchvision==0.28.0

.PHONY: demo test test-slow lint check builder-check pack wheel wheels gpu-check benchmarks clean

demo: $(READY)  ## the whole line on the embedded model
	$(BIN)/acm-export demo -o acm-demo

test: $(READY) $(TIMM)/.ready  ## the fast tests, in two processes: JOBS=8 where there are more cores
	$(PYTEST) -m "not slow" --hypothesis-profile=quick

test-slow: $(READY) $(TIMM)/.ready  ## the slow tests, and the property tests with all their examples
	$(PYTEST) -m "slow or hypothesis"

lint: $(READY)  ## formatting, lint rules, order of imports and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy --python-executable $(BIN)/python -p acm_export
	MYPYPATH=benchmarks $(BIN)/mypy --python-executable $(BIN)/python benchmarks examples/*.py

check: lint test test-slow $(if $(filter Linux-x86_64,$(shell uname -s -m | tr ' ' -)),$(if $(PYTHON312),builder-check))  ## everything that must hold before a commit

builder-check: $(READY) $(RTX)/.ready  ## parse and build the files of every family with NVIDIA's TensorRT-RTX, without a GPU
	ACM_RTX_PYTHON=$(CURDIR)/$(RTX)/bin/python $(PYTEST) tests/builder

$(TIMM)/.ready: Makefile $(READY)
	$(BIN)/python -m pip install -q --upgrade --no-deps --target $(TIMM) $(TIMM_PACKAGES)
	touch $@

$(RTX)/.ready: pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON312)" || { echo "error: TensorRT-RTX needs Python 3.12, which was not found" >&2; \
	  echo "hint: make builder-check PYTHON312=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON312) -m venv $(RTX)
	$(RTX)/bin/python -m pip install -q -c constraints.txt -e . $(RTX_PACKAGES)
	touch $@

pack: $(READY)  ## the GPU kernels, compiled ahead of time for every architecture; needs no GPU, takes minutes
	$(BIN)/python -m acm_export.plugins.kernels.compile

wheel: pack  ## the wheel, with the compiled kernels inside
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

wheels: wheel  ## wheels for x86_64 and aarch64 with the plugin compiled for every TensorRT; headers from TENSORRT_ROOT=DIR:DIR, else by git
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[wheels]'
	$(BIN)/python -m acm_export.plugins.tensorrt.wheels $(WHEELS) "$$(ls -t dist/acm_export-*-py3-none-any.whl | head -n 1)"

gpu-check:  ## everything that needs a GPU, with the Python whose PyTorch sees it: PYTHON=python3 GPU_CHECK="--stage correctness"
	$(PYTHON) -c 'import acm_export.plugins' 2>/dev/null || $(PYTHON) -m pip install -q --no-deps --no-build-isolation -e .
	$(PYTHON) benchmarks/gpu_check.py $(GPU_CHECK)

benchmarks: $(READY)  ## measure on this machine; writes benchmarks/results/
	for program in portable_body whole_model whole_model_int8 int8_op int8_digits export_cost tile_waste calibration calibration_vit latency_tool; do $(BIN)/python benchmarks/$$program.py || exit 1; done

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.ready-* && touch $@

clean:  ## remove what make made
	rm -rf $(VENV) $(RTX) $(TIMM) build acm-demo
