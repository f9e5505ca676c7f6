# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3
# Else every process that tests start would compile the package anew, which takes 0.3 s.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin

# make check T=... runs other tests than these, the quick ones that hold for every change.
T ?= tests/unit/testing tests/unit/strategies tests/unit/schedulers tests/unit/noise tests/unit/caches tests/unit/plan \
	tests/unit/models/samplers tests/unit/models/decoders/test_tiles.py tests/unit/framework/console \
	tests/unit/test_layers.py tests/unit/test_docs.py tests/unit/test_dependencies.py tests/cli/test_frozen_options.py
# make test-kernels K="--kernels aten-default --threads 2" runs a part.
K ?=

.PHONY: help audit faults fuzz wheel-check cuda-rules demo test test-kernels test-floors test-quantize check lint mutants install clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install  ## Make a one-minute video with the bundled model
	$(BIN)/longtake predict --config configs/demo.yaml --output out/demo --overwrite true
	@echo "The video is out/demo/0000/video.mp4"

# One worker more than two cores: tests of several processes wait for one another a third of their time.
test: install  ## Run the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 15

test-kernels: install  ## Run the tests that compare bits under other kernels, with 1 and 2 threads
	$(BIN)/python tools/test_kernels.py $(K)

check: lint  ## Before every commit: style, types, and the quick unit tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(T)

wheel-check: install  ## Build sdist and wheel, and make a video with the wheel alone
	$(BIN)/python tools/wheel_check.py

# What leans on other packages: their files, pipelines, tokenizers, codecs and command line parser.
FLOORS := .venv-floors
FLOOR_TESTS := tests/cli/test_predict.py tests/unit/test_dependencies.py tests/unit/strategies/test_reference.py \
	tests/unit/framework/console tests/unit/framework/writers tests/unit/framework/engine/test_engine.py \
	tests/unit/framework/engine/test_run_folder.py tests/unit/models/loading/test_published.py \
	tests/unit/models/loading/test_tokenizers.py tests/unit/models/loading/test_lora.py

test-floors: install  ## Run some tests with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(FLOORS)
	$(BIN)/python tools/floors.py > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --constraint $(FLOORS)/floors.txt torch
	$(FLOORS)/bin/python -m pip install --quiet --constraint $(FLOORS)/floors.txt --editable '.[test]'
	$(FLOORS)/bin/python -m pytest $(FLOOR_TESTS)

# torchao stands apart: where it is installed diffusers imports it at every start.
QUANTIZE := .work/quantize
test-quantize: install  ## Run the tests of quantized weights, with torchao in a folder of its own
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(QUANTIZE) torchao==0.18.0
	PYTHONPATH=$(QUANTIZE) $(BIN)/python -m pytest tests/unit/models/loading/test_quantize.py

lint: install  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutants: install  ## Measure which share of small faults the tests notice (hours; MUTANTS="--sample 20")
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py $(MUTANTS)

install: $(VENV)/.installed

# Made anew whenever what is to be installed has changed; a half-finished one has no stamp.
# Where the lock is for this machine every file is checked by its hash, but for the libraries that
# PyPI's PyTorch names for CUDA. PyTorch is fetched first: of the builds in the lock pip would prefer
# PyPI's to the one that this machine's index offers. Another build can be installed before.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "longtake needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if $(BIN)/python tools/lock.py --fits; then \
		grep '^torch==' requirements.lock > $(VENV)/torch.lock && \
		$(BIN)/python -m pip download --quiet --no-deps --constraint constraints.txt --dest $(VENV)/wheels torch && \
		$(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-index --find-links $(VENV)/wheels \
			--requirement $(VENV)/torch.lock && \
		rm -r $(VENV)/wheels && \
		$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock && \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt torch && \
		PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --no-deps --editable .; \
	else \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt torch && \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
	fi
	touch $@

audit: install  ## Ask which of the locked packages have known holes (needs pip-audit, and the network)
	pip-audit --require-hashes --disable-pip --requirement requirements.lock

cuda-rules: install  ## Run every strategy, mesh and method under CUDA's rules (RULES="--sample 20 --seed 7")
	OMP_NUM_THREADS=1 $(BIN)/python tools/cuda_rules.py $(RULES)

faults: install  ## Kill runs at 1,000 points and the command at 100: prints two tables, goes on where it was stopped
	@mkdir -p .work
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --log .work/faults.jsonl $(FAULTS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --log .work/faults.jsonl --real $(FAULTS)

fuzz: install  ## Run hostile input through the command: 10,000 inputs, hours (FUZZ="--count 300 --seed 7")
	$(BIN)/python tools/fuzz.py $(FUZZ)

clean:  ## Remove the virtual environment and the demo's output
	rm -rf $(VENV) $(FLOORS) out/demo
