"""Train the detector on embedded features.

python jobs/train.py --config jobs/configs/sample.yaml --loss.gamma 0.5
python jobs/train.py --config jobs/configs/d3.yaml --scaling.num_workers 8
"""

from rdd.job import run_job
from rdd.on_ray.train import SECTIONS, run_training

if __name__ == "__main__":
    run_job(
        "train",
        run_training,
        sections=(*SECTIONS, "scaling", "tracking", "cluster"),
        needs="features and a run directory: --config jobs/configs/sample.yaml, or --features.path and --train.output",
        description=__doc__,
    )
