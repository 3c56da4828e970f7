# `make demo` and `make test` are all that a fresh machine with Python 3.11+ needs.
PYTHON ?= python3
INSTALLED := .venv/.installed
ARGS ?=
FUZZ_SECONDS ?= 30

.PHONY: help demo test test-receivers lint types torture bench fuzz clean

help:
	@echo 'make demo            all seven events delivered before your eyes, in about a minute'
	@echo 'make test            the tests (ARGS="-k name" chooses)'
	@echo 'make test-receivers  receivers that nobody here wrote verify our signatures: PyPI, npm (with node), Debian'\''s webhook'
	@echo 'make torture         kill -9, cut networks, full servers: what is lost and doubled, counted (ARGS="--scale 0.1" is shorter)'
	@echo 'make bench           figures, as ratios measured in one run (ARGS="--quick" is shorter)'
	@echo 'make fuzz            libFuzzer on whatever reads what strangers write (FUZZ_SECONDS=300 for each; ARGS="url answer" chooses)'
	@echo 'make lint            ruff: lint rules and format'
	@echo 'make types           mypy, strict'
	@echo 'make clean           remove .venv, caches and builds'
	@echo 'PYTHON=python3.12 make ... uses another Python than python3; 3.11 or newer is needed.'

demo: $(INSTALLED)
	@.venv/bin/kasplo-notify up --demo

test: $(INSTALLED)
	@.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

# What is not here is skipped, and the report says why. The packages of npm are installed for the time of the run.
test-receivers: $(INSTALLED)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	if command -v node >/dev/null && command -v npm >/dev/null; then \
		npm install --prefix "$$folder" --silent --no-audit --no-fund standardwebhooks svix || exit 1; \
	fi && \
	RECEIVERS_NODE="$$folder" .venv/bin/python -m pytest -v tests/acceptance/test_receivers.py $(ARGS)

lint: $(INSTALLED)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: $(INSTALLED)
	@.venv/bin/mypy

torture: $(INSTALLED)
	@.venv/bin/python -m tests.torture $(ARGS)

bench: $(INSTALLED)
	@.venv/bin/python -m tests.benchmarks $(ARGS)

fuzz: $(INSTALLED)
	@.venv/bin/python -c 'import atheris' 2>/dev/null || \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[fuzz]'
	@.venv/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last, so that an interrupted installation is done again; so is one older than pyproject.toml.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo '$(PYTHON) is missing or older than Python 3.11: name a newer one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; \
		exit 1; }
	@.venv/bin/python -c '' 2>/dev/null || { \
		echo 'Making .venv and installing into it; once, about half a minute.'; \
		$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }; }
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[test]'
	@touch $@
