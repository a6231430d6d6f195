"""Make a sample set in D3's format: real photographs and simulated generators.

python jobs/sample.py --config jobs/configs/sample.yaml --sample.num_records 200
"""

from rdd.data.sample import make_sample
from rdd.job import run_job

if __name__ == "__main__":
    run_job(
        "sample",
        lambda config: make_sample(config.sample),
        sections=("sample", "tracking"),
        needs="a directory to write: --config jobs/configs/sample.yaml, or --sample.output DIRECTORY",
        description=__doc__,
        track=True,
    )
