"""Settings of the page about a run."""

from dataclasses import dataclass

from rdd.config.checks import check


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A page about a training run or an evaluation: how good, on what, where it fails, what leaks."""

    run: str = ""
    """Finished run directory of jobs/train.py, or a directory that jobs/evaluate.py wrote; gets report.html."""
    audit: str = ""
    """Directory that jobs/audit.py wrote about the features that the run was tested on; empty for the audit that its training
    made, where that is of the same features."""
    robustness: str = ""
    """Directory that jobs/robustness.py wrote about the run's detector; empty to leave that section out."""
    images: int = 8
    """Images of each class that are shown as the most wrongly scored, in [0, 100]."""
    look_up: int = 100_000
    """Images of a feature set, at least 0, up to which the page that a training or an evaluation leaves behind shows them as
    pictures, which means to look for them in the records; jobs/report.py does so whatever the size."""

    def __post_init__(self) -> None:
        check(0 <= self.images <= 100, "report.images", "lie in [0, 100]", self.images)
        check(self.look_up >= 0, "report.look_up", "be at least 0", self.look_up)
