r"""Try a detector on degraded copies of a set of records: curves of AUC from clean to worst, with intervals paired by record.

Examples:
    python jobs/robustness.py --config jobs/configs/sample.yaml --config jobs/configs/robustness.yaml
    python jobs/robustness.py --config jobs/configs/images.yaml --config jobs/configs/robustness.yaml \
        --evaluate.run runs/my_images --robustness.output runs/my_images-robustness
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import ROBUSTNESS
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.robustness import run_robustness

    return run_robustness(config)


if __name__ == "__main__":
    run_job(ROBUSTNESS, work, description=__doc__)
