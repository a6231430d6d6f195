"""Train without some generators and test on them, round by round: what is a detector worth on what it has not seen?

Examples:
    python jobs/protocol.py --config jobs/configs/sample.yaml --config jobs/configs/leave_one_generator_out.yaml
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import PROTOCOL
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.protocol import run_protocol

    return run_protocol(config)


if __name__ == "__main__":
    run_job(PROTOCOL, work, description=__doc__)
