"""Train the rows of an ablation over several seeds and compare them with intervals.

Examples:
    python jobs/ablate.py --config jobs/configs/sample.yaml --config jobs/configs/ablation.yaml --ablate.seeds 3
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import ABLATE
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.ablate import run_ablation

    return run_ablation(config)


if __name__ == "__main__":
    run_job(ABLATE, work, description=__doc__)
