r"""Export a detector to ONNX and torch.export, checked against the detector: for programs that do without this project.

Examples:
    python jobs/export.py --export.detector runs/sample/detector --export.output runs/sample-export \
        --export.weights data/weights/vit_b_16_quickgelu_image_tower.safetensors
    python jobs/export.py --export.detector runs/sample/detector --export.output runs/sample-head --export.files '[head.onnx]'
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import EXPORT
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.runs.export import run_export

    return run_export(config)


if __name__ == "__main__":
    run_job(EXPORT, work, description=__doc__)
