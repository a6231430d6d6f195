"""Embed records with CLIP on Ray Data: images and prompts to a directory of features.

Examples:
    python jobs/embed.py --config jobs/configs/sample.yaml
    python jobs/embed.py --config jobs/configs/images.yaml --records.path my_images
    python jobs/embed.py --config jobs/configs/d3.yaml --embed.num_workers 8
    python jobs/embed.py --config jobs/configs/d3.yaml --embed.dollars_per_hour 32 --dry-run
    python jobs/embed.py --config jobs/configs/d3.yaml --verify
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import EMBED
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.embed import run_embedding

    return run_embedding(config)


def plan(config: Config) -> dict[str, Any]:
    """Say what the work will take."""
    from rdd.embedding.plan import plan
    from rdd.runs.stage import check_output

    check_output(EMBED, config)
    return plan(config)


def verify(config: Config) -> dict[str, Any]:
    """Read the output back."""
    from rdd.embedding.verify import verify

    return verify(config)


MODES = {
    "--dry-run": (plan, "print records, hours, size of the output and dollars; writes nothing, loads no weights"),
    "--verify": (verify, "read everything in embed.output back and say whether it is whole; writes nothing"),
}

if __name__ == "__main__":
    run_job(EMBED, work, description=__doc__, modes=MODES)
