r"""Answers of a detector for many images, on Ray: Parquet with one row an image; killed and started again it goes on.

Examples:
    python jobs/predict.py --predict.detector runs/sample/detector --predict.images "[my_images]" --predict.output runs/answers
    python jobs/predict.py --predict.detector s3://bucket/runs/d3/detector --predict.images "[s3://bucket/tables/*.parquet]" \
        --predict.output s3://bucket/answers --predict.num_workers 8 --predict.device cuda --predict.gpus_per_worker 1
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import PREDICT
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.predict import run_prediction

    return run_prediction(config)


if __name__ == "__main__":
    run_job(PREDICT, work, description=__doc__)
