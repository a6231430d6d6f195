"""Draw the paper's figures: the loss landscape without and with SAM, and a map of the features.

python jobs/figures.py --config jobs/configs/sample.yaml --config jobs/configs/ablation.yaml
"""

from rdd.job import run_job
from rdd.on_ray.figures import run_figures

if __name__ == "__main__":
    run_job(
        "figures",
        run_figures,
        sections=("features", "figures", "tracking", "cluster"),
        needs="features, and two runs for the landscape: --config jobs/configs/sample.yaml --config jobs/configs/ablation.yaml",
        description=__doc__,
    )
