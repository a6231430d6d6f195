"""Draw the paper's figures: the loss landscape without and with SAM, and a map of the features.

Examples:
    python jobs/figures.py --config jobs/configs/sample.yaml --config jobs/configs/ablation.yaml
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import FIGURES
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.figures import run_figures

    return run_figures(config)


if __name__ == "__main__":
    run_job(FIGURES, work, description=__doc__)
