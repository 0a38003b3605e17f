# Everything runs in a virtual environment of its own, .venv, made from the tested set in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .demo
export RAY_AUTH_MODE ?= disabled

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check docs bench kodak-plot clean

help:
	@echo "make demo      compress and reconstruct sample photographs on this machine"
	@echo "make test      lint, types and the tests (make test-all: also those that take minutes each)"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make bench     the benchmarks behind the documents' figures"
	@echo "make kodak-plot  docs/rate_distortion.svg, from a folder with Kodak's pictures (KODAK=…)"

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	@touch $@

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	$(BIN)/python -m benchmarks.photographs $(DEMO)/photos
	$(BIN)/python -m cnnbatch.warm
	$(BIN)/python -m jobs.compress $(DEMO)/photos $(DEMO)/archive
	$(BIN)/python -m jobs.reconstruct $(DEMO)/archive $(DEMO)/back
	$(BIN)/cnnbatch info $(DEMO)/archive
	$(BIN)/cnnbatch ls -l $(DEMO)/archive
	@echo "originals: $(DEMO)/photos   archive: $(DEMO)/archive   given back: $(DEMO)/back"

check: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Two at a time: what starts no Ray, of which two on one machine get in each other's way. The rest one after the other.
APART := $(addprefix tests/,archive classification codec compat containers evaluation fuzz images stages storage training \
	test_butteraugli.py test_layers.py test_ssimulacra2.py)
SOME := -m "not slow"

test test-all: check
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SOME) -n 2 --dist loadfile $(APART); apart=$$?; \
	$(BIN)/pytest $(SOME) $(addprefix --ignore=,$(APART)) && exit $$apart

test-all: SOME :=

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.entropy_coder
	$(BIN)/python -m benchmarks.codec_speed
	$(BIN)/python -m benchmarks.job_overhead
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.read_objects

# The first picture of README: the shipped codec files beside what people use. KODAK is a folder with Kodak's 24 PNG files.
KODAK ?= ../shared/data/kodak

kodak-plot: $(VENV)/.test
	$(BIN)/python -m benchmarks.rate_distortion $(KODAK) --codecs cnn,cnn:psnr,jpeg444,webp,jxl,avif --measures ssimulacra2,psnr \
		--plot docs/rate_distortion.svg

clean:
	rm -rf $(DEMO) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
