r"""Evaluate a trained detector on a feature set: metrics with intervals, by generator, and figures.

Examples:
    python jobs/evaluate.py --config jobs/configs/sample.yaml
    python jobs/evaluate.py --evaluate.run runs/sample --features.path data/features/mine --evaluate.part all \
        --evaluate.output runs/sample-on-mine
    python jobs/evaluate.py --evaluate.run runs/sample --features.path data/features/mine --evaluate.part all \
        --evaluate.output runs/sample-on-mine-shifted --evaluate.shift_labels few_labels.csv
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import EVALUATE
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.runs.evaluate import run_evaluation

    return run_evaluation(config)


if __name__ == "__main__":
    run_job(EVALUATE, work, description=__doc__)
