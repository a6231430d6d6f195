"""Pages of MLflow that runs are compared on, each a saved view: its runs, and the columns that matter in the width there is.

MLflow keeps such a view as a tag of the experiment, the same that its "share view" button writes, and opens it by an address
that names the tag (format read from MLflow 3.17, and tested in a browser at 1,440 x 900 with MLflow's assistant open).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from rdd.config import TrackingConfig
from rdd.tracking.addresses import server_of
from rdd.tracking.changes import CHANGES
from rdd.tracking.tracker import KIND_TAG, Kind, tracking_uri

INTERVAL_TAG = "AUC 95 CI"
"""Tag of a row of an ablation, or a round of a protocol: its AUC and interval, as text (MLflow allows no % in a name)."""
DIFFERENCE_TAG = "vs ours 95 CI"
"""Tag of a row: its difference to the row `ours`, and its interval."""
P_VALUE_TAG = "p value"
"""Tag of a row: the adjusted p-value of that difference."""
PROTOCOL_PARAM = "protocol"
"""Parameter of a round: its protocol, by the name of that one's output directory."""

_NAME, _CREATED, _DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
_HIDDEN = 24  # pixels, the least that MLflow takes: what can not be left out is made as narrow as it goes


@dataclass(frozen=True)
class _View:
    """Which runs a page shows, in which order, and the pixels of each column."""

    title: str
    columns: Mapping[str, int]
    order_by: str
    ascending: bool = False
    name_width: int = 112


_PARAMETERS = {"params.`loss.alpha`": 71, "params.`loss.gamma`": 82, "params.`loss.p`": 62, "params.`sam.rho`": 75}
_AUCS = {"metrics.`val/auroc`": 95, "metrics.`test/auroc`": 95}
_SEED = {"params.`train.seed`": 75}
_CHANGES = f"params.`{CHANGES}`"

# 609 pixels are left for columns when the assistant takes its quarter of 1,440
_VIEWS: dict[Kind, _View] = {
    "row": _View(
        "the rows of ablations",
        {_CHANGES: 280, f"tags.`{INTERVAL_TAG}`": 131, f"tags.`{DIFFERENCE_TAG}`": 143, f"tags.`{P_VALUE_TAG}`": 55},
        order_by="metrics.`order`",
        ascending=True,
    ),
    "seed": _View(
        "the runs of ablations", {**_SEED, **_AUCS, _CHANGES: 299}, order_by="params.`row`", ascending=True, name_width=157
    ),
    "trial": _View(
        "the trials of sweeps",
        {"metrics.`val/auroc`": 95, _CHANGES: 236, **_PARAMETERS, "params.`sam.rho`": 63},
        order_by="metrics.`val/auroc`",
    ),
    "round": _View(
        "the rounds of protocols",
        {f"params.`{PROTOCOL_PARAM}`": 165, f"tags.`{INTERVAL_TAG}`": 131, _CHANGES: 255},
        order_by=f"params.`{PROTOCOL_PARAM}`",
        ascending=True,
        name_width=170,
    ),
    # by time MLflow would hide runs below their parents
    "training": _View("single training runs", {**_AUCS, _CHANGES: 344, **_SEED}, order_by="metrics.`val/auroc`"),
}


def title_of(kind: Kind) -> str:
    """What the page of a kind of runs shows, in a few words."""
    return _VIEWS[kind].title


def page_of(config: TrackingConfig, kind: Kind, *, server: str | None = None) -> str | None:
    """Address of the page that compares runs of a kind; its view is written into the experiment, if there is one.

    Args:
        config: where runs are tracked.
        kind: of the runs.
        server: address of MLflow's server; by default the tracking server, or for a local file that of ``make ui``.

    Returns:
        The whole address; None where there is no such experiment yet.
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri(config))
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        return None
    value = json.dumps(_state(kind), sort_keys=True)
    key = hashlib.sha256(value.encode()).hexdigest()
    client.set_experiment_tag(experiment.experiment_id, f"mlflow.sharedViewState.{key}", value)
    words = {"workflowType": "machine_learning", "compareRunsMode": "TABLE", "viewStateShareKey": key}
    query = urlencode(words, quote_via=quote)
    return f"{server or server_of(tracking_uri(config))}/#/experiments/{experiment.experiment_id}/runs?{query}"


def pages(config: TrackingConfig, *, server: str | None = None) -> dict[str, str]:
    """Title and address of every page that has a run to show, the rows of ablations first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri(config))
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        return {}
    shown = {}
    for kind, view in _VIEWS.items():
        if client.search_runs([experiment.experiment_id], _filter(kind), max_results=1):
            shown[view.title] = page_of(config, kind, server=server) or ""
    return shown


def _filter(kind: Kind) -> str:
    return f"tags.`{KIND_TAG}` = '{kind}'"


def _state(kind: Kind) -> dict[str, Any]:
    """The view as MLflow's page keeps it; a width holds for a column only if ``columnOrder`` names it."""
    view = _VIEWS[kind]
    return {
        "selectedColumns": list(view.columns),
        "columnOrder": [_NAME, _CREATED, *view.columns, _DURATION],
        "columnWidths": {_NAME: view.name_width, _CREATED: _HIDDEN, _DURATION: _HIDDEN, **view.columns},
        "searchFilter": _filter(kind),
        "orderByKey": view.order_by,
        "orderByAsc": view.ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
