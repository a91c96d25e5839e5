PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test

help:
	@echo "make demo    draw a picture, without ComfyUI"
	@echo "make test    the whole test suite"

demo: .venv/standalone
	@$(BIN)/dit-blocks run example_workflows/text_to_image.json --out output

test: .venv/test
	@$(BIN)/python -m pytest

.venv/standalone: pyproject.toml
	@./.ci/venv "$(PYTHON)" standalone

.venv/test: pyproject.toml
	@./.ci/venv "$(PYTHON)" standalone,test
