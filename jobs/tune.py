"""Search settings of the objective for the largest validation AUC.

python jobs/tune.py --config jobs/configs/sample.yaml --config jobs/configs/sweep.yaml --tune.output runs/sweep
"""

from rdd.job import run_job
from rdd.on_ray.train import SECTIONS
from rdd.on_ray.tune import run_sweep

if __name__ == "__main__":
    run_job(
        "tune",
        run_sweep,
        sections=(*SECTIONS, "tune", "scaling", "tracking", "cluster"),
        needs="features, a space and a directory: --config jobs/configs/sample.yaml --config jobs/configs/sweep.yaml",
        description=__doc__,
    )
