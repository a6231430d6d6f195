"""Evaluate a trained detector on a feature set: metrics with intervals, by generator, and figures.

python jobs/evaluate.py --config jobs/configs/sample.yaml
python jobs/evaluate.py --evaluate.run runs/sample --features.path data/features/mine --evaluate.part all --evaluate.output out
"""

from rdd.job import run_job
from rdd.runs.evaluate import run_evaluation

if __name__ == "__main__":
    run_job(
        "evaluate",
        run_evaluation,
        sections=("features", "evaluate", "tracking"),
        needs="--config jobs/configs/sample.yaml, or a run, its features and --evaluate.output",
        description=__doc__,
    )
