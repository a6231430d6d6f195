"""What only a GPU can show. Take the repository to any machine that has one; neither Ray nor a network is needed there.

In the root of the repository:

    pip install -c constraints.txt torch torchvision open_clip_torch pyarrow numpy pillow safetensors pyyaml
    pip install -c constraints.txt "jsonargparse[signatures]" pytest pytest-timeout
    python -m pytest tests/gpu -m gpu -rs
    python tests/gpu/bench.py

or, in the project's own environment, ``make test-gpu`` and ``make bench-gpu``. The last prints a table and writes
runs/bench-gpu.json; clip.compile wants a C compiler.

The weights are random ones of a fixed seed, made on the spot. Without a GPU each test is skipped, and bench.py says that there
is none; test_on_cpu.py runs the same functions on the CPU.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
