# Everything runs from .venv by relative paths, so that the checkout may lie anywhere. GNU make 3.81 suffices.
.POSIX:
SHELL = /bin/sh
.DEFAULT_GOAL := help
RUN = .venv/bin/python -m
SALDO = .venv/bin/saldo
STAMP = .venv/setup-is-done

.PHONY: help setup demo up down status test check bench chaos lock clean

help:  ## what there is
	@sed -n 's/^\([a-z]*\):.*## */  make \1|/p' Makefile | awk -F'|' '{printf "%-16s%s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv with everything, fetch Kafka's jars (PYTHON=... to choose one)

$(STAMP): requirements.lock pyproject.toml deploy/setup.sh deploy/local/kafka-jars.lock
	@PYTHON='$(PYTHON)' sh deploy/setup.sh
	@touch $(STAMP)

demo: $(STAMP)  ## sell on five kinds of channel for a minute, watch it, get a verdict (ARGS="--seconds 20")
	@$(SALDO) demo $(ARGS)

up: $(STAMP)  ## start the system in the background; its data stays in var/up
	@$(SALDO) up $(ARGS)

down: $(STAMP)  ## stop it
	@$(SALDO) down $(ARGS)

status: $(STAMP)  ## where everything is and how it is
	@$(SALDO) status $(ARGS)

test: $(STAMP)  ## all tests, by two processes (ARGS="-k name")
	@$(RUN) pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(STAMP)  ## format, lint, types, architecture, contracts
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@.venv/bin/lint-imports
	@$(RUN) pytest -q tests/test_architecture.py
	@$(SALDO) contracts check

bench: $(STAMP)  ## measure the pipeline beside a bare script
	@$(SALDO) bench $(ARGS)

chaos: $(STAMP)  ## kill, cut and stall everything while it sells, and prove that nothing is lost (MINUTES=20 SEED=7)
	@$(SALDO) chaos --minutes '$(or $(MINUTES),20)' --seed '$(or $(SEED),7)' $(ARGS)

lock:  ## resolve all packages and jars anew (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv on the PATH" >&2; exit 1; }
	uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --generate-hashes --upgrade \
		--no-header --output-file requirements.lock
	$(RUN) deploy.local.jars lock

clean:  ## delete .venv, caches and builds; data in var/ stays
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
