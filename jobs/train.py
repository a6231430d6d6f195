"""Train the detector on embedded features.

Examples:
    python jobs/train.py --config jobs/configs/sample.yaml --loss.gamma 0.3 --train.output runs/gamma-0.3
    python jobs/train.py --config jobs/configs/d3.yaml --scaling.num_workers 8
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import TRAIN
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.train import run_training

    return run_training(config)


if __name__ == "__main__":
    run_job(TRAIN, work, description=__doc__)
