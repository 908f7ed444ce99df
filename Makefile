# Two commands: `make demo` and `make test`. Both make .venv first when it is absent, and do nothing twice.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# 3.11 first: pip finds a CPU build of torch for it on more machines. A name may exist and not run, so each is tried.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: help demo test test-all chaos check bench-generate bench-plan bench-scale bench-serve bench-train bench-cluster lock
help:  ## what can be typed
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: $(READY)  ## distil a small support-desk model on this machine and report on it
	@$(BIN)/python jobs/demo_data.py
	@$(BIN)/raystill run jobs/demo.yaml

test: check  ## style, types, boundaries and the fast tests
	@$(BIN)/python -m pytest

test-all: check  ## also the long tests: engines, training, faults (about half an hour on two cores)
	@$(BIN)/python -m pytest -m "not gpu"

chaos: $(READY)  ## generate under a seeded nemesis, 20 seeds (about half an hour)
	@$(BIN)/python tests/faults/chaos.py --seeds 20

check: $(READY)  ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench-generate: $(READY)  ## generation and scoring against the bare engine, and ray.data.llm (about half an hour on two cores)
	@$(BIN)/python bench/generate.py

$(READY): requirements/cpu.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "raystill needs Python 3.11 or 3.12 on the PATH, or: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@echo "set-up: .venv with $$($(PYTHON) --version), exact versions of requirements/cpu.txt (3 GB, some minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=24' wheel $$(grep ^setuptools== requirements/cpu.txt)
	@torch=$$(grep ^torch== requirements/cpu.txt); echo "set-up: $$torch"; \
	$(BIN)/python -m pip install -qq --no-deps "$$torch" 2>/dev/null || { $(BIN)/python -m pip install -qq uv && \
	  $(BIN)/uv pip install -qq --python $(BIN)/python --no-deps --torch-backend=cpu "$${torch%+cpu}"; }
	@echo "set-up: everything else"
	@grep -v ^torch== requirements/cpu.txt > .venv/rest.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -r .venv/rest.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@$(BIN)/python -m raystill.training.prebuild
	@touch $@

bench-plan: $(READY)  ## what a plan of the demo says after a rehearsal, beside its run (about ten minutes)
	@$(BIN)/python bench/plan.py

bench-scale: $(READY)  ## the control plane with scripted replicas, a million rows, 2,000 API requests at once (about 15 minutes)
	@$(BIN)/python bench/scale.py

bench-serve: $(READY)  ## our endpoint against vllm serve, evaluate against a bare client (about half an hour on two cores)
	@$(BIN)/python bench/serve.py

bench-train: $(READY)  ## training against bare DeepSpeed, torchrun and TRL (about half an hour on two cores)
	@$(BIN)/python bench/train.py

bench-cluster: $(READY)  ## three Ray nodes that lose one, a driver of 200 stages, a plan beside its run (needs root; about 20 minutes)
	@$(BIN)/python bench/cluster.py

lock: $(READY)  ## resolve the versions anew
	@$(BIN)/python -m pip install -qq --dry-run --ignore-installed --report .venv/report.json '.[cpu,tensorboard,mlflow,tune,dev]'
	@$(BIN)/python requirements/pick.py .venv/report.json > requirements/cpu.txt
