"""The parts of ``scripts/bench.py`` and ``scripts/bench_gpu.py``. The worker and its contestants also run in the peers'
environment, so nothing here imports alphabar before it is asked for a contestant of ours."""
