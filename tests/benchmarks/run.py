"""Benchmarks: ratios of two sides, alternated in one run. Prints a table and writes JSON.

python tests/benchmarks/run.py [--output runs/bench.json] [--only training,losses]
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from data_figures import feature_figures, import_figure
from embedding_figures import embedding_figures
from fetch_figures import fetch_figures
from loss_figures import loss_figures
from measure import Figure, Skipped
from scale_figures import scale_figures
from training_figures import training_figures
from tune_figures import tune_figures

from rdd import storage

GROUPS: dict[str, Callable[[Path], Iterable[Figure | Skipped]]] = {
    "training": training_figures,
    "losses": lambda folder: loss_figures(),
    "features": feature_figures,
    "scale": scale_figures,
    "fetch": fetch_figures,
    "embedding": embedding_figures,
    "tune": tune_figures,
    "import": lambda folder: [import_figure()],
}


def main() -> None:
    """Measure everything, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="runs/bench.json", help="JSON file to write")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups to measure, of {', '.join(GROUPS)}")
    options = parser.parse_args()
    figures: list[Figure] = []
    skipped: list[Skipped] = []
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for figure in GROUPS[name](Path(folder)):
                if isinstance(figure, Skipped):
                    print(f"{figure.name:<62}  skipped: {figure.reason}", flush=True)
                    skipped.append(figure)
                    continue
                print(f"{figure.name:<62} {figure.value:8.3f} {figure.unit:<3} ({figure.bar})", flush=True)
                figures.append(figure)
    measured = [asdict(figure) | {"reached": figure.reached} for figure in figures]
    storage.write_json(options.output, measured + [asdict(figure) for figure in skipped])
    missed = [figure.name for figure in figures if not figure.reached]
    print(f"written to {options.output}" + (f"; below the bar: {', '.join(missed)}" if missed else ""))


if __name__ == "__main__":
    main()
