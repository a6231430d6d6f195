"""Embed records with CLIP on Ray Data: images and prompts to a directory of features.

Examples:
    python jobs/embed.py --config jobs/configs/sample.yaml
    python jobs/embed.py --config jobs/configs/images.yaml --records.path my_images
    python jobs/embed.py --config jobs/configs/d3.yaml --embed.num_workers 8
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import EMBED
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.embed import run_embedding

    return run_embedding(config)


if __name__ == "__main__":
    run_job(EMBED, work, description=__doc__)
