# `make demo` and `make test` are all a newcomer needs: each builds .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow test-engine check format bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt scripts/setup
	scripts/setup "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(READY)
	@$(BIN)/python scripts/demo.py

# two workers on two cores: each computes in one thread, and takes work from the other when it has none
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(READY)
	$(PYTEST) -m "not slow and not gpu and not engine"

test-slow: $(READY)
	$(PYTEST) -m "slow and not gpu and not engine"

# what is written for a reader, read by it: builds an environment for each below .engines (6 GB) by itself
test-engine: $(READY)
	scripts/engines "$(PYTHON)" .engines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m engine tests/engines

check: $(READY)
	scripts/check "$(BIN)"

format: $(READY)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(READY)
	@for script in bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache
