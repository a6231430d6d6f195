"""Make a sample set in D3's format: real photographs and simulated generators.

Examples:
    python jobs/sample.py --config jobs/configs/sample.yaml
    python jobs/sample.py --sample.output data/sample-200 --sample.num_records 200
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import SAMPLE
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.data.sample import make_sample

    return make_sample(config.sample)


if __name__ == "__main__":
    run_job(SAMPLE, work, description=__doc__, track=True)
