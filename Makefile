# make demo   the environment, the bundled model, and a comparison of techniques in reports/demo.html
# make test   the environment, linters and every test but the longest      make test-all  those too
# make coverage  the lines that tests reach      make compatibility  which techniques go together, where code has changed
# make app    the dashboard      make lab    the notebooks      make bench  the measurements
# make gpu    one report of what an accelerator makes of it all, in nine minutes; it needs one
# make clean  what the tools left behind; `make distclean` the environment too

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_FLAGS ?=
# Test processes, one thread each: two threads in one process help the tests less than a second process.
WORKERS ?= 2

.DELETE_ON_ERROR:
.PHONY: help environment model demo test test-all coverage compatibility lint app lab bench gpu clean distclean

help:
	@sed -n '1,6s/^# //p' Makefile

environment: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) \
		--constraint constraints.txt --editable ".[test,dev]"
	@touch $@

model: $(STAMP)
	@$(BIN)/workbench fetch smollm2-135m

# One prompt of each of six tasks, so that a technique is seen where it helps and where it does not: five prompts are the
# fewest that a speed-up has an interval of, six the fewest of 95 %.
DEMO_TASKS := chat code_completion copy_editing mathematics summarising translation

reports/demo.jsonl: $(DEMO_TASKS:%=data/workbench_data/prompts/%.jsonl)
	@mkdir -p reports
	@for file in $^; do sed -n 1p "$$file"; done > $@

demo: model reports/demo.jsonl
	$(BIN)/workbench compare smollm2-135m --prompts reports/demo.jsonl --max-new-tokens 32 --repeats 1 --seed 0 \
		--technique prompt_lookup \
		--technique suffix_draft+goodput \
		--technique draft_model \
		--technique unified_layer_skip \
		--technique streaming_llm \
		--technique snap_kv:keep=0.5 \
		--technique random_eviction:keep=0.5 \
		--technique token_select \
		--technique entropy_adaptive \
		--technique prompt_lookup+snap_kv:keep=0.5 \
		--out reports/demo.html --json reports/demo.json
	@echo
	@echo "The report:    reports/demo.html (open it in any browser; it needs no network)"
	@echo "The dashboard: make app"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

test: $(STAMP) lint model
	$(PYTEST) --cpu-seconds=reports/seconds.json

test-all: $(STAMP) lint model
	$(PYTEST) -m "slow or not slow"

# Apart, as watching every line takes as long again as the tests.
coverage: $(STAMP) model
	$(PYTEST) --cov --cov-report=term

# What goes together, made anew where code has changed, and the pages that say so.
compatibility: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/workbench compatibility --out data/workbench_data/compatibility
	$(BIN)/python tests/test_architecture.py

app: model
	$(BIN)/workbench app

lab: model
	$(BIN)/jupyter lab notebooks

bench: model
	@mkdir -p reports
	@failed=""; for file in tests/benchmarks/bench_*.py; do \
		echo "== $$file"; $(BIN)/python "$$file" || failed="$$failed $$file"; \
	done; test -z "$$failed" || { echo "beyond its limit, or red:$$failed"; exit 1; }

# Without an accelerator it says so, and nothing is fetched.
gpu: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && $(BIN)/workbench fetch smollm2-135m || true
	@$(BIN)/python tests/benchmarks/gpu_report.py

clean:
	rm -rf build dist reports .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage .coverage.* htmlcov
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) *.egg-info
