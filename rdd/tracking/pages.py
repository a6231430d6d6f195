"""The MLflow page that a run is compared on: the table of training runs, with the columns that matter.

MLflow keeps such a view as a tag of the experiment, the same that its "share view" button writes, and opens it by an address
that names the tag (format read from MLflow 3.17, and tested in a browser).
"""

import hashlib
import json
from urllib.parse import quote, urlencode

from rdd.config import TrackingConfig
from rdd.tracking.tracker import TRAINING, tracking_uri

_METRICS = ("val/auroc", "test/auroc", "train/loss_cvar", "train/loss_auc")
_PARAMS = ("row", "train.seed", "loss.alpha", "loss.gamma", "loss.p", "sam.rho")
_WIDTH = {"row": 130}  # pixels


def training_page(config: TrackingConfig) -> str:
    """Address of the table of training runs, below that of the server; the view is written into the experiment.

    Sorted by validation AUC, since MLflow hides the runs of a sweep below their parent in any order by time.
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri(config))
    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        return "/"
    columns = [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in _PARAMS]
    widths = [_WIDTH.get(name, 100) for name in (*_METRICS, *_PARAMS)]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict(zip(columns, widths, strict=True)),
        "searchFilter": "tags.`{}` = '{}'".format(*TRAINING),
        "orderByKey": "metrics.`val/auroc`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    value = json.dumps(state, sort_keys=True)
    key = hashlib.sha256(value.encode()).hexdigest()
    client.set_experiment_tag(found.experiment_id, f"mlflow.sharedViewState.{key}", value)
    words = {"workflowType": "machine_learning", "compareRunsMode": "TABLE", "viewStateShareKey": key}
    return f"/#/experiments/{found.experiment_id}/runs?{urlencode(words, quote_via=quote)}"


def compare_page(experiment_id: str, run_ids: list[str]) -> str:
    """Address of the page that compares some runs, below that of the server."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return f"/#/compare-runs?runs={runs}&experiments={experiments}"
