# `make demo` and `make test` do all the set-up they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint bench bench-peers clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

install: .venv/.installed

demo: install
	$(BIN)/python examples/demo.py demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow' -n auto --maxprocesses 4 --dist worksteal

bench: install
	$(BIN)/python -m pytest -m slow
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/vector.py
	$(BIN)/python benchmarks/parquet.py
	$(BIN)/python benchmarks/scaling.py

# Makes an environment of some gigabytes for each of the others; run it on an idle machine.
bench-peers: install
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
