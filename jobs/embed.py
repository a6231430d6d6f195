"""Embed records with CLIP on Ray Data: images and prompts to a directory of features.

python jobs/embed.py --config jobs/configs/sample.yaml
python jobs/embed.py --config jobs/configs/d3.yaml --embed.num_workers 8
"""

from rdd.job import run_job
from rdd.on_ray.embed import run_embedding

if __name__ == "__main__":
    run_job(
        "embed",
        run_embedding,
        sections=("records", "clip", "embed", "tracking", "cluster"),
        needs="records and a directory to write: --config jobs/configs/sample.yaml, or --records.path and --embed.output",
        description=__doc__,
        track=True,
    )
