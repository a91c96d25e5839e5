PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

# One process a core, as many as memory allows; each takes one core. In the order of tests/conftest.py: by itself xdist begins with the groups
# of most tests, whatever they take, and turns so often between hosts that most of the time goes into starting them.
TOGETHER := -n auto --maxprocesses 8 --dist loadgroup --no-loadscope-reorder

.PHONY: help demo serve check test bench

help:
	@echo "make demo    draw a picture, without ComfyUI"
	@echo "make serve   ComfyUI's front end over the pack, without ComfyUI: http://127.0.0.1:8188"
	@echo "make check   the fast part of the tests, for the loop of editing"
	@echo "make test    the whole test suite; EVERYWHERE=1: both renderers over both hosts, all of the simulated GPU too"
	@echo "make bench   what patch sizes, stages and loops cost, in tables"

demo: .venv/standalone
	@$(BIN)/dit-blocks run example_workflows/text_to_image.json --out output

serve: .venv/standalone
	@$(BIN)/dit-blocks serve

check: .venv/test
	@$(BIN)/python -m pytest $(TOGETHER) -m "not slow"

# The browser specs come after the rest: they wait for what a page shows, and a busy machine shows it late.
test: .venv/test
	@failed=0; \
	$(BIN)/python -m pytest $(TOGETHER) --ignore tests/browser || failed=1; \
	$(BIN)/python -m pytest $(TOGETHER) tests/browser || failed=1; \
	exit $$failed

bench: .venv/standalone
	@for table in patch_size exploded_step loop; do $(BIN)/python -m benchmarks.$$table || exit; done

.venv/standalone: pyproject.toml
	@./.ci/venv "$(PYTHON)" standalone

.venv/test: pyproject.toml
	@./.ci/venv "$(PYTHON)" standalone,test
