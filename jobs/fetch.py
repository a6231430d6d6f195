r"""Fetch the real images of D3 from the addresses in its records, politely, into the table that embedding reads.

Examples:
    python jobs/fetch.py --config jobs/configs/d3.yaml --fetch.contact you@example.org
    python jobs/fetch.py --config jobs/configs/d3.yaml --fetch.contact you@example.org --fetch.retry_failed true
    python jobs/fetch.py --records.path data/d3 --fetch.hub elsaEU/ELSA_D3 --fetch.hub_files 'data/validation-*' \
        --fetch.output data/d3_real_images --fetch.contact you@example.org
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import FETCH
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.on_ray.fetch import run_fetch

    return run_fetch(config)


if __name__ == "__main__":
    run_job(FETCH, work, description=__doc__)
