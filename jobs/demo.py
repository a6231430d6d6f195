"""The whole way through on the embedded default, in one Ray session: sample, weights, embed, train, evaluate.

python jobs/demo.py --config jobs/configs/sample.yaml
"""

import dataclasses
import logging
from typing import Any

from rdd.config import Config
from rdd.data.sample import make_sample
from rdd.embedding.weights import fetch_weights
from rdd.job import run_job
from rdd.on_ray.embed import run_embedding
from rdd.on_ray.session import ray_session
from rdd.on_ray.train import run_training
from rdd.runs.evaluate import run_evaluation
from rdd.tracking.pages import training_page


def demo(config: Config) -> dict[str, Any]:
    """Run every stage; each finds what the one before it wrote."""
    logger = logging.getLogger("rdd.demo")
    make_sample(config.sample)
    fetch_weights(config.weights, config.clip.model)
    with ray_session(config.cluster, [{"CPU": 1}], knobs="nothing"):
        embedded = run_embedding(config)
        trained = run_training(config)
    evaluated = run_evaluation(config)
    logger.info("the four generators are simulated: this shows that the machinery works, and nothing about real generators")
    return {
        "run_dir": trained["run_dir"],
        "records_in": embedded["records_in"],
        "records_written": embedded["records_written"],
        "records_quarantined": embedded["records_quarantined"],
        "test_auroc": evaluated["test_auroc"],
        "test_auroc_interval": evaluated["test_auroc_interval"],
        "worst_generator": evaluated["worst_generator"],
        "worst_generator_auroc": evaluated["worst_generator_auroc"],
        "figures": f"{evaluated['output']}/figures",
        "detector": f"{trained['run_dir']}/detector",
        "mlflow": f"make ui, then http://127.0.0.1:5000{training_page(config.tracking)}",
    }


if __name__ == "__main__":
    run_job(
        "demo",
        demo,
        sections=[section.name for section in dataclasses.fields(Config)],
        needs="a named run: --config jobs/configs/sample.yaml",
        description=__doc__,
        track=True,
    )
