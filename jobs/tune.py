"""Search settings of the objective for the largest validation AUC.

Examples:
    python jobs/tune.py --config jobs/configs/sample.yaml --config jobs/configs/sweep.yaml
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import TUNE
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.tune import run_sweep

    return run_sweep(config)


if __name__ == "__main__":
    run_job(TUNE, work, description=__doc__)
