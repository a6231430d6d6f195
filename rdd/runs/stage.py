"""The frame of a stage that writes a result file: check the request, lock the output, log to MLflow, end with the result.

    if (result := finished(TRAIN, config)) is not None:
        return result
    with begun(TRAIN, config) as run:
        ...                       # the work; run.tracker is its MLflow run
        run.finish(result)        # the file that marks it as finished, written last

What a stage is called, reads and needs stands in :mod:`rdd.config.stages`.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rdd import storage
from rdd.config import Config
from rdd.config.added import ADDED
from rdd.config.parse import leaf_of, section_dicts, settings_of
from rdd.config.secrets import without_password
from rdd.config.stages import Stage, require
from rdd.resource_use import peak_gib
from rdd.signals import signals_held
from rdd.tracking.pages import page_of, title_of
from rdd.tracking.run_metrics import rounded
from rdd.tracking.tracker import NullTracker, Tracker, bring_in, tracked

logger = logging.getLogger(__name__)

Result = dict[str, Any]


@dataclass(frozen=True)
class StageRun:
    """A stage at work in its output directory."""

    output: str
    """The directory, which no other process works on."""
    tracker: Tracker
    """Its MLflow run, with the settings logged."""
    result_file: str

    def finish(self, result: Result) -> Result:
        """Write the file that marks the directory as finished; nothing may follow that a reader of it would miss."""
        storage.write_json(storage.join(self.output, self.result_file), result)
        return result


def finished(stage: Stage, config: Config, *, output: str | None = None) -> Result | None:
    """The result of an earlier run of the same config, if its directory is finished; MLflow gets what it had not taken.

    Args:
        stage: which.
        config: the request.
        output: the directory, where it is not the one that the config names.

    Raises:
        ValueError: the request leaves something out, or the directory was made with another config.
    """
    require(stage, config)
    directory = _directory(stage, config, output)
    place = storage.join(directory, stage.result_file)
    if not storage.exists(place):
        return None
    with storage.owned_directory(directory, section_dicts(config, stage.sections), neutral=stage.may_change, added=ADDED):
        logger.info("%s is finished; delete it to begin again", directory)
        bring_in(config.tracking, directory)
        return storage.read_json(place, stage.result_shape, way_out=f"delete {place} to run the stage again")


def check_output(stage: Stage, config: Config) -> None:
    """Refuse what a start would refuse of the output directory; nothing is written, and nobody is kept off it.

    Raises:
        ValueError: the request leaves something out, or the directory was made with another config, or holds something else.
    """
    require(stage, config)
    directory = _directory(stage, config, None)
    storage.check_begun(directory, section_dicts(config, stage.sections), neutral=stage.may_change, added=ADDED)


@contextmanager
def begun(
    stage: Stage,
    config: Config,
    *,
    output: str | None = None,
    tags: Mapping[str, str] | None = None,
    child: Tracker | None = None,
) -> Iterator[StageRun]:
    """Take the output directory and begin, or go on with, the stage's MLflow run.

    Args:
        stage: which.
        config: the request; the same as when the directory was begun, but for what the stage lets change.
        output: the directory, where it is not the one that the config names.
        tags: of the MLflow run.
        child: that run, where it is one below another stage's; by default a run of its own.

    Raises:
        ValueError: the directory was begun with another config.
        RuntimeError: another process works on it.
    """
    directory = _directory(stage, config, output)
    with (
        storage.owned_directory(directory, section_dicts(config, stage.sections), neutral=stage.may_change, added=ADDED),
        tracked(config.tracking, job=stage.name, output=directory, tags=tags, child=child) as tracker,
    ):
        tracker.params(settings_of(config, stage.sections))
        if child is None and not isinstance(tracker, NullTracker):
            _say_pages(stage, config)
        began = time.monotonic()
        yield StageRun(directory, tracker, stage.result_file)
        tracker.metrics(rounded({"time/stage_s": time.monotonic() - began, "system/driver_peak_gib": peak_gib()}), step=0)


def _say_pages(stage: Stage, config: Config) -> None:
    """Log where the runs of this stage are compared in MLflow."""
    try:
        with signals_held():
            for kind in stage.compared_as:
                logger.info("compare %s in MLflow: %s", title_of(kind), page_of(config.tracking, kind))
    except Exception as error:  # whatever the server's client raises; a run goes on without its page
        logger.info("no page of MLflow: %s", without_password(" ".join(str(error).split()))[:200])


def _directory(stage: Stage, config: Config, output: str | None) -> str:
    return storage.absolute(output or leaf_of(config, stage.output))
