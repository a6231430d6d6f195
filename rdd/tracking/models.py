"""A run's detector as a model of MLflow, and a version of it in the registry under a name and an alias."""

import base64
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdd import storage

logger = logging.getLogger(__name__)


VERSION_TAG = "rdd.model_version"
"""Tag of a model: the hash of its detector. A run whose detector was made anew gets another model, and none is overwritten."""


def send_model(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    """Log the files of a directory as a model of a run, once; raises what the client raises.

    Args:
        client: ``mlflow.MlflowClient``.
        run_id: of the run.
        values: ``path`` of the directory, ``name`` of the model, its ``version``, and ``described``, what MLflow is told of it:
            ``loader``, the module that loads the directory, ``signature``, ``example`` with binary values in base64,
            ``model_config``, ``requirements`` and ``metadata``.
    """
    model = _model_of(client, run_id, values["version"])
    if model is not None and str(model.status) == "READY":
        return
    if not storage.exists(values["path"]):
        logger.warning("there is nothing at %s any more, so no model is logged", values["path"])
        return
    model = model or _begun(client, run_id, values["name"], values["version"])
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model")
        _write(written, _local(values["path"], folder), values["described"], run_id=run_id, model_id=model.model_id)
        client.log_model_artifacts(model.model_id, str(written))
    client.finalize_logged_model(model.model_id, "READY")


def send_version(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    """Register a run's model, once, and let an alias point to it; raises what the client raises.

    Args:
        client: ``mlflow.MlflowClient``.
        run_id: of the run.
        values: ``version`` of the model, ``register``, the name in the registry, and ``alias``.
    """
    model, name = _model_of(client, run_id, values["version"]), values["register"]
    if model is None:
        logger.warning("the run has no model of this detector, so none is registered as %s", name)
        return
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name)
    # its address and not models:/<id>, which MLflow 3.17 looks up in the store of the environment and not in the client's
    source = model.artifact_location
    known = [one for one in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'") if one.source == source]
    version = known[0] if known else client.create_model_version(name, source, run_id, model_id=model.model_id)
    client.set_registered_model_alias(name, values["alias"], version.version)
    logger.info("version %s of %s in MLflow's registry: models:/%s@%s", version.version, name, name, values["alias"])


def _model_of(client: Any, run_id: str, version: str) -> Any | None:
    """A run's model of this detector, as an earlier attempt may have begun it."""
    experiment_id = client.get_run(run_id).info.experiment_id
    search = f"source_run_id = '{run_id}' AND tags.`{VERSION_TAG}` = '{version}'"
    found = client.search_logged_models([experiment_id], search, max_results=1)
    return found[0] if found else None


def _begun(client: Any, run_id: str, name: str, version: str) -> Any:
    from mlflow.entities import LoggedModelOutput

    experiment_id, tags = client.get_run(run_id).info.experiment_id, {VERSION_TAG: version}
    model = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, tags=tags, model_type="detector")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _local(path: str, folder: str) -> str:
    """A directory that MLflow can copy from."""
    if not storage.is_remote(path):
        return path
    target = Path(folder, path.rsplit("/", 1)[-1])
    target.mkdir()
    for file in storage.list_files(path):
        (target / file.path[len(path) + 1 :]).write_bytes(storage.read_bytes(file.path))
    return str(target)


def _write(model: Path, data: str, described: Mapping[str, Any], *, run_id: str, model_id: str) -> None:
    """A directory in MLflow's layout; nothing of the model is imported or run for it."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    signature = ModelSignature.from_dict({part: json.dumps(columns) for part, columns in described["signature"].items()})
    binary = {column["name"] for column in described["signature"]["inputs"] if column["type"] == "binary"}
    example = {name: [base64.b64decode(value) if name in binary else value] for name, value in described["example"].items()}
    pyfunc.save_model(
        str(model),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        loader_module=described["loader"],
        data_path=data,
        signature=signature,
        input_example=pd.DataFrame(example),
        pip_requirements=list(described["requirements"]),
        metadata=dict(described["metadata"]),
        model_config=dict(described["model_config"]),
    )
