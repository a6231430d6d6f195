r"""Make the page about a run: how good, on what, where it fails, what leaks; one HTML file that opens anywhere.

A training and an evaluation leave such a page by themselves; this adds an audit and degraded copies, or makes it anew.

Examples:
    python jobs/report.py --report.run runs/sample
    python jobs/report.py --report.run runs/sample-evaluated --report.audit runs/sample-audit \
        --report.robustness runs/sample-robustness
"""

from typing import Any

from rdd.config import Config
from rdd.config.stages import REPORT
from rdd.job import run_job


def work(config: Config) -> dict[str, Any]:
    """Run the stage; its slow imports are made only here, so that ``--help`` answers at once."""
    from rdd.runs.report import run_report

    return run_report(config)


if __name__ == "__main__":
    run_job(REPORT, work, description=__doc__)
