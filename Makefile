# Every target works in .venv, which is made when it is missing and brought up to date when the requirements change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.installed-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PEERS := .bench-venv
# One more than there are cores on a small machine: many tests wait for processes.
PYTEST_ARGS ?= -n 3 --dist worksteal

.PHONY: help demo up test check faults probe-matrix bench bench-atari bench-peers bench-scaling bench-learning clean

help:
	@echo "make demo            train CartPole through the service, download the policy and evaluate it"
	@echo "make up              run the service on http://127.0.0.1:8000 until Ctrl-C"
	@echo "make test            all tests, on SQLite and the embedded broker"
	@echo "make check           lint, types and import contracts"
	@echo "make faults          the long campaigns of injected faults"
	@echo "make probe-matrix    every combination of head, memory, estimator and objective against its closed form"
	@echo "make bench           training throughput beside the peers, of two jobs at once, of a job beside the engine; its start"
	@echo "make bench-atari     training throughput on Breakout with a CNN, beside Stable-Baselines3"
	@echo "make bench-peers     get the peers that pip and git can get: CleanRL, sbx, PureJaxRL; once, before make bench"
	@echo "make bench-scaling   steps/s against environments and width, compiled loops beside torch"
	@echo "make bench-learning  returns reached by the presets, five seeds each"
	@echo "make clean           remove .venv, .bench-venv and caches"

demo: $(INSTALLED)
	@$(BIN)/python scripts/demo.py

up: $(INSTALLED)
	@$(BIN)/ppo up

# Compiled first, so that no test waits for it.
test: $(INSTALLED)
	-@$(BIN)/python -m ppo_engine.fused.compile
	@$(BIN)/python -m pytest -q -m "not faults" $(PYTEST_ARGS)

check: $(INSTALLED)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

faults: $(INSTALLED)
	@$(BIN)/python -m pytest -q -m faults tests/faults

# At most half an hour; goes on where it was interrupted.
probe-matrix: $(INSTALLED)
	-@$(BIN)/python -m ppo_engine.fused.compile
	@$(BIN)/python -m tests.ppo_engine.probes.matrix

bench: $(BENCH)
	@$(BIN)/python -m benchmarks.throughput
	@$(BIN)/python -m benchmarks.two_jobs
	@$(BIN)/python -m benchmarks.service
	@$(BIN)/python -m benchmarks.startup

bench-atari: $(BENCH)
	@$(BIN)/python -m benchmarks.atari

# The peers see our own torch, Gymnasium and NumPy; whatever they bring besides stays out of our environment.
bench-peers: $(BENCH)
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv $(PEERS)
	@echo "import sysconfig; print(sysconfig.get_path('purelib'))" | $(BIN)/python > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install --requirement benchmarks/peers.txt || echo "pip cannot get all of benchmarks/peers.txt; make bench goes on without"
	@$(BIN)/python -m benchmarks.peers

bench-scaling: $(INSTALLED)
	@$(BIN)/python -m benchmarks.scaling

bench-learning: $(INSTALLED)
	@$(BIN)/python -m benchmarks.learning

clean:
	@rm -rf $(VENV) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "ppo-service needs Python 3.11 or newer, and there is no '$(PYTHON)'; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ppo-service needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP) install --constraint constraints.txt --editable '.[server,worker,dev]'
	@touch $@

$(BENCH): $(INSTALLED)
	@$(PIP) install --constraint constraints.txt --editable '.[bench]'
	@touch $@
