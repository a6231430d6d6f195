"""A run's detector as a model of its MLflow run."""

from rdd.config import TrackingConfig
from rdd.detector import Detector
from rdd.serving.mlflow_model import described_model
from rdd.tracking.tracker import NullTracker, Tracker

MODEL = "model"
"""Its name in the run: ``runs:/<run id>/model``."""


def log_model(tracker: Tracker, config: TrackingConfig, path: str) -> None:
    """Log a detector as a model that ``mlflow models predict`` takes, and register it where that is asked for.

    Runs of a sweep, an ablation or a protocol are compared and thrown away, so their callers do not call this.

    Args:
        tracker: of the run.
        config: whether and where to register.
        path: directory of the detector, local or on S3.
    """
    if isinstance(tracker, NullTracker):
        return
    detector = Detector.load(path)
    tracker.model(path, MODEL, detector.version, described_model(detector))
    if config.register:
        tracker.register(detector.version, config.register, config.register_alias)
