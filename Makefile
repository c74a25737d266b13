# `make help` shows the targets. Variables: PYTHON (3.10 to 3.14); TORCH_INDEX, one more index to take
# torch and torchvision from, such as PyTorch's own: its CPU wheels (2.14.1+cpu) count as newer; EXTRAS,
# optional parts to install and test, such as joblib,submitit,ray.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
EXTRAS ?=
ARGS ?=
BIN := $(VENV)/bin
comma := ,
DEV := $(VENV)/.dev$(addprefix $(comma),$(EXTRAS))
INSTALL = $(BIN)/python -m pip install $(addprefix --extra-index-url ,$(TORCH_INDEX)) -c .ci/constraints.txt

NEXT := $(VENV)/next-hydra
ON_NEXT := command conf bad_configs help multirun

.PHONY: help train test test-slow test-next test-crash evidence audit lint format clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(VENV)/.train ## set up, get MNIST, train and test the default experiment; ARGS="key=value ..."
	$(BIN)/python -m mnv2_lightning.train $(ARGS)

test: $(DEV) ## the tests that need no network and no minutes, one process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal $(ARGS)

test-slow: $(DEV) ## faults, the real MNIST, the wheel; last, those that watch the clock
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not alone" -n auto --dist worksteal $(ARGS)
	$(BIN)/python -m pytest -m "slow and alone" $(ARGS)

test-next: $(DEV) ## those of the command line on the next Hydra, with the other packages as they are
	$(BIN)/python -m venv $(NEXT)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
		> "$$($(NEXT)/bin/python -c 'import site; print(site.getsitepackages()[0])')/others.pth"
	$(NEXT)/bin/python -m pip install --quiet --no-deps hydra-core==1.4.0rc3 omegaconf==2.4.1rc1
	OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" $(NEXT)/bin/python -m pytest -m "not slow" -n auto --dist loadfile \
		$(ON_NEXT:%=tests/test_%.py) $(ARGS)

test-crash: $(DEV) ## kill, damage, cut the power many times (30 min); writes outputs/reliability/
	$(BIN)/python -m pytest tests/reliability --reliability outputs/reliability/record.json $(ARGS)

evidence: $(VENV)/.train ## write the pages of evidence below outputs/ from the records beside them
	$(BIN)/python -m tests.evidence

audit: $(VENV)/.train ## known vulnerabilities of the pinned packages, by pip-audit; needs the network
	$(BIN)/python -m pip install --quiet "pip-audit>=2.9"
	$(BIN)/python -m pip_audit --requirement .ci/constraints.txt --no-deps --disable-pip

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and the tools' caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.train: pyproject.toml .ci/constraints.txt
	@echo "Setting up $(VENV): downloads and writes about 1 GB with CPU wheels of torch, about 3 GB"
	@echo "and 6 GB with CUDA's (TORCH_INDEX=URL chooses); training then gets MNIST, 12 to 55 MB."
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 15) else "Python 3.10 to 3.14 is needed, this is %d.%d; make PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(DEV): $(VENV)/.train
	$(INSTALL) -e ".[dev$(addprefix $(comma),$(EXTRAS))]"
	@touch $@
