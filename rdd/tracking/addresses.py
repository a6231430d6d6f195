"""Addresses at which a person opens MLflow, without the name and password that jobs log in with."""

import re

_LOCAL_SERVER = "http://127.0.0.1:5000"
"""Where `make ui` serves a local file of runs."""

_LOGIN = re.compile(r"(?<=://)\S*@")


def server_of(uri: str) -> str:
    """Address of MLflow's pages: the tracking server, or for runs in a local file that of ``make ui``.

    Args:
        uri: where runs are tracked.

    Example:
        >>> server_of("https://ann:secret@mlflow.example/base/")
        'https://mlflow.example/base'
    """
    return _LOGIN.sub("", uri).rstrip("/") if uri.startswith(("http://", "https://")) else _LOCAL_SERVER


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Address of the page of one run, among MLflow's pages for training and not for language models.

    Example:
        >>> run_page("sqlite:///mlflow.db", "1", "3f7a")
        'http://127.0.0.1:5000/#/experiments/1/runs/3f7a?workflowType=machine_learning'
    """
    return f"{server_of(uri)}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
