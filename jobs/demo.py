"""The whole way through on the embedded default, in one Ray session: sample, weights, embed, train, evaluate, predict.

Examples:
    python jobs/demo.py --config jobs/configs/sample.yaml --config jobs/configs/general.yaml
"""

import logging
from typing import Any

from rdd.config import Config
from rdd.config.stages import DEMO
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run every stage; each finds what the one before it wrote."""
    from rdd.data.sample import make_sample
    from rdd.embedding.weights import fetch_weights
    from rdd.on_ray.embed import run_embedding
    from rdd.on_ray.session import ray_session
    from rdd.on_ray.train import run_training
    from rdd.runs.evaluate import run_evaluation
    from rdd.runs.example import show_example

    make_sample(config.sample)
    fetch_weights(config.weights, config.clip.model)
    with ray_session(config.cluster, [{"CPU": 1}], knobs="nothing"):
        embedded = run_embedding(config)
        trained = run_training(config)
    evaluated = run_evaluation(config)
    logging.getLogger("rdd.demo").info(
        "the four generators are simulated: this shows that the machinery works, and nothing about real generators"
    )
    return {
        "run_dir": trained["run_dir"],
        "records_in": embedded["records_in"],
        "records_written": embedded["records_written"],
        "records_quarantined": embedded["records_quarantined"],
        **{name: value for name, value in evaluated.items() if "_auroc" in name and "generator" not in name},
        "worst_generator": evaluated["worst_generator"],
        "worst_generator_auroc": evaluated["worst_generator_auroc"],
        "report": f"{evaluated['output']}/report.html",
        "figures": f"{evaluated['output']}/figures",
        "detector": f"{trained['run_dir']}/detector",
        "example": show_example(config),
    }


if __name__ == "__main__":
    run_job(DEMO, work, description=__doc__, track=True)
