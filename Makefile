# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# what others wrote, for `make bench` only
PEERS := .venv-peers
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check format bench bench-gpu quality campaign ablate docs clean

demo: $(VENV)/.demo          ## train on handwritten digits and show everything on one page
	$(BIN)/alphabar demo

test: $(VENV)/.dev           ## run the tests
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

check: $(VENV)/.dev          ## lint, formatting, types, and whether `make docs` is due
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_readme.py -k map_of_equations

format: $(VENV)/.dev         ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev           ## rewrite docs/equations.md from the docstrings
	$(BIN)/alphabar equations --markdown > docs/equations.md

# SOURCES=DIR holds pytorch-ddpm/ and guided-diffusion/ where they cannot be cloned; RUN=runs/NAME samples from a run
bench: $(VENV)/.dev $(PEERS)/.made  ## speed and memory beside the peers, results in docs/results/
	$(BIN)/python scripts/bench.py $(if $(SOURCES),--peers-source $(SOURCES)) $(if $(RUN),--run $(RUN))

bench-gpu: $(VENV)/.dev $(PEERS)/.made  ## the same on one CUDA GPU, beside diffusers
	$(BIN)/python scripts/bench_gpu.py

# hours: 30 minutes of processor time for each peer, 38 for ours
quality: $(PEERS)/.made      ## quality per minute beside the peers: make quality MNIST=mnist.npz [SOURCES=DIR]
	$(PEERS)/bin/python scripts/quality_per_minute.py mnist --source $(MNIST) --who alphabar --minutes 2 6 30
	$(PEERS)/bin/python scripts/quality_per_minute.py mnist --source $(MNIST) --minutes 15 30 \
		--who diffusers denoising-diffusion-pytorch pytorch-ddpm $(if $(SOURCES),--peers-source $(SOURCES))

campaign: $(VENV)/.dev       ## checks that take longer; MNIST=mnist.npz for the doctor as well
	$(BIN)/python scripts/mutants.py
	$(BIN)/python scripts/lost_runs.py
	$(BIN)/python scripts/digits_quality.py
	test -d runs/digits || $(MAKE) demo
	$(BIN)/python scripts/evaluation.py runs/digits
	$(BIN)/python scripts/colour_drift.py
	test -z "$(MNIST)" || $(BIN)/python scripts/doctor_proof.py $(MNIST)

# a quarter of an hour for each of six networks, see scripts/ablate.py; ROWS=1,2 measures some of them
ROWS := 1,2,3,4,5,6
ablate: $(VENV)/.dev         ## Table 2 of the paper: make ablate MNIST=mnist.npz
	$(BIN)/python scripts/ablate.py $(MNIST) --rows $(ROWS)

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) pip
	$(PIP) --editable '.[plots]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --group dev
	touch $@

# denoising-diffusion-pytorch also asks for torchvision and others, which what is measured never uses
$(PEERS)/.made: scripts/benchmark/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint scripts/benchmark/peers.txt \
		torch numpy pillow diffusers accelerate ema-pytorch einops absl-py tqdm scipy
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint scripts/benchmark/peers.txt \
		--no-deps denoising-diffusion-pytorch
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plots]'
	touch $@
