"""Benchmarks: ratios of two sides, alternated in one run. Prints a table and writes JSON.

python tests/benchmarks/run.py [--output runs/bench.json] [--only training,losses]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from data_figures import feature_figures, import_figure
from embedding_figures import embedding_figures
from fetch_figures import fetch_figures
from loss_figures import loss_figures
from measure import Group
from node_figures import node_figures
from report import report
from scale_figures import scale_figures
from serve_figures import serve_figures
from training_figures import training_figures
from tune_figures import tune_figures

GROUPS: dict[str, Group] = {
    "training": training_figures,
    "losses": lambda folder: loss_figures(),
    "features": feature_figures,
    "scale": scale_figures,
    "fetch": fetch_figures,
    "embedding": embedding_figures,
    "tune": tune_figures,
    "nodes": node_figures,
    "serve": serve_figures,
    "import": lambda folder: [import_figure()],
}


def main() -> None:
    """Measure everything, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="runs/bench.json", help="JSON file to write")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups to measure, of {', '.join(GROUPS)}")
    options = parser.parse_args()
    report({name: GROUPS[name] for name in options.only.split(",")}, options.output)


if __name__ == "__main__":
    main()
