"""Audit a feature set for leaks: what tells real from generated images without looking at their pixels.

With audit.pixels also: how far a detector falls, and a probe that is fitted anew, when both classes are encoded, resized and
cropped alike.

Examples:
    python jobs/audit.py --config jobs/configs/sample.yaml --audit.output runs/sample-audit
    python jobs/audit.py --config jobs/configs/sample.yaml --config jobs/configs/audit.yaml
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import AUDIT
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.audit import run_audit

    return run_audit(config)


if __name__ == "__main__":
    run_job(AUDIT, work, description=__doc__)
