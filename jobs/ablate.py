"""Train the rows of an ablation over several seeds and compare them with intervals.

python jobs/ablate.py --config jobs/configs/sample.yaml --config jobs/configs/ablation.yaml --ablate.seeds 3
"""

from rdd.job import run_job
from rdd.on_ray.ablate import run_ablation
from rdd.on_ray.train import SECTIONS

if __name__ == "__main__":
    run_job(
        "ablate",
        run_ablation,
        sections=(*SECTIONS, "ablate", "tracking", "cluster"),
        needs="features, rows and a directory: --config jobs/configs/sample.yaml --config jobs/configs/ablation.yaml",
        description=__doc__,
    )
