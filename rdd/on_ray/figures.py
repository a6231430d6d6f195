"""The paper's figures from finished runs; the points of the landscape are spread over the cluster."""

import itertools
import logging
from typing import Any

import numpy as np
import ray
import torch

from rdd import storage
from rdd.config import Config
from rdd.config.parse import settings_of
from rdd.config.stages import FIGURES, TRAIN, require
from rdd.detector import Detector
from rdd.evaluation.landscape import (
    Direction,
    Surroundings,
    filter_normalised,
    largest_eigenvalue,
    losses_at,
    rise_in_ball,
)
from rdd.evaluation.paper_figures import feature_map_figure, landscape_figure
from rdd.features import FeatureTable
from rdd.features.feature_set import check_inputs
from rdd.losses import CvarAucLoss
from rdd.on_ray.feature_placement import hold_features
from rdd.on_ray.session import ray_session
from rdd.runs.directory import RunDirectory
from rdd.runs.stage import begun, finished
from rdd.tracking.run_metrics import rounded

logger = logging.getLogger(__name__)

_PART = 21  # points in one task: seconds of work for the full head, and enough tasks for many nodes

_MAY_DIFFER = TRAIN.may_change | {"train.seed"}
"""Settings of two runs that are still compared."""


def run_figures(config: Config) -> dict[str, Any]:
    """Draw the feature map and, given two runs, the loss landscape without and with SAM.

    Returns:
        ``output``, the figures, and of each run the largest Hessian eigenvalue and the loss rise in a ball.

    Raises:
        ValueError: the request is wrong.
    """
    require(FIGURES, config)
    options = config.figures
    if bool(options.with_sam) != bool(options.without_sam):
        raise ValueError("figures.with_sam and figures.without_sam must be given both or neither, got one")
    if (result := finished(FIGURES, config)) is not None:
        return result
    runs = {"without SAM": options.without_sam, "with SAM": options.with_sam} if options.with_sam else {}
    check_inputs(config.features)
    with ray_session(config.cluster, [{"CPU": options.cpus_per_task}], knobs="figures.cpus_per_task"):
        table = hold_features(config.features)
        detectors = {title: Detector.load(RunDirectory(run).detector) for title, run in runs.items()}
        for detector in detectors.values():
            detector.check_features(table)
        _check_pair(runs)
        images = _images_of_map(config, table)  # the last refusal: from here on the directory is this request's
        with begun(FIGURES, config) as stage:
            folder = storage.join(stage.output, "figures")
            storage.write_bytes(storage.join(folder, "feature_map.png"), _feature_map(config, table, images))
            result = {"output": stage.output, "figures": ["feature_map.png"]}
            if runs:
                picture, numbers = _landscape(config, table, runs, detectors)
                storage.write_bytes(storage.join(folder, "landscape.png"), picture)
                result |= {"figures": ["feature_map.png", "landscape.png"], "sharpness": numbers}
                for title, values in numbers.items():
                    named = {f"{title.replace(' ', '_')}/{name}": value for name, value in values.items()}
                    stage.tracker.metrics(rounded(named), step=0)
            stage.tracker.artefacts(folder, "figures")
            return stage.finish(result)


def _check_pair(runs: dict[str, str]) -> None:
    """Refuse two runs that SAM is not the difference of.

    Raises:
        ValueError: naming the run, or what else differs.
    """
    trained = {title: RunDirectory(run).config() for title, run in runs.items()}
    for title, config in trained.items():
        if config.sam.enabled != (title == "with SAM"):
            setting = title.replace(" ", "_").lower()
            raise ValueError(f"figures.{setting} must be a run {title}, got sam.enabled {config.sam.enabled} in {runs[title]}")
    settings = [settings_of(config, ("train", "features", "model", "loss")) for config in trained.values()]
    names = {name for one in settings for name in one if one[name] != settings[0][name]} - _MAY_DIFFER
    if names:
        raise ValueError(
            f"figures.without_sam and figures.with_sam must differ in SAM alone, got other {', '.join(sorted(names))}"
        )


def _landscape(
    config: Config, table: FeatureTable, runs: dict[str, str], detectors: dict[str, Detector]
) -> tuple[bytes, dict[str, dict[str, float]]]:
    options = config.figures
    trained = {title: RunDirectory(run).config() for title, run in runs.items()}
    objective = trained["with SAM"]  # one function for both panels
    images = table.split(objective.features, "train")
    generator = torch.Generator().manual_seed(options.seed)
    chosen = images[torch.randperm(len(images), generator=generator)[: options.landscape_images]].sort().values
    panels, numbers, captions = {}, {}, {}
    for title, detector in detectors.items():
        batch = table.gather(chosen, detector.text_mode_for(table))
        loss = CvarAucLoss.from_config(objective.loss)
        at = Surroundings.copy_of(detector.head, batch.features, batch.labels, loss)
        logger.info("%s: %d points over %d images", title, options.points**2, len(chosen))
        panels[title] = landscape_on_ray(
            at, points=options.points, span=options.span, seed=options.seed, cpus_per_task=options.cpus_per_task
        )
        numbers[title] = {
            "loss": float(at.value().detach()),
            "largest_eigenvalue": largest_eigenvalue(at, seed=options.seed),
            "rise_in_ball": rise_in_ball(at, radius=options.radius),
        }
        captions[title] = (
            f"loss {numbers[title]['loss']:.4g}, largest eigenvalue {numbers[title]['largest_eigenvalue']:.3g},\n"
            f"rise within {options.radius:g}: {numbers[title]['rise_in_ball']:.3g}"
        )
    return landscape_figure(panels, captions, options.span), numbers


def landscape_on_ray(at: Surroundings, *, points: int, span: float, seed: int, cpus_per_task: float) -> np.ndarray:
    """Losses on a square of a plane of two random directions, parts of it in parallel.

    Args:
        at: the surroundings of the weights, which are the middle of the square.
        points: along each side.
        span: reach in filter-normalised units.
        seed: of the directions: the same for every head of one shape.
        cpus_per_task: CPUs that a part takes; it uses as many threads.

    Returns:
        ``(points, points)`` float64, rows along the second direction.
    """
    directions = filter_normalised(at.head, seed=seed), filter_normalised(at.head, seed=seed + 1)
    axis = np.linspace(-span, span, points).tolist()
    square = [(x, y) for y, x in itertools.product(axis, axis)]
    shared = ray.put((at, directions))
    task = ray.remote(num_cpus=cpus_per_task)(_losses_of_part)
    parts = [
        task.remote(shared, square[first : first + _PART], max(1, int(cpus_per_task))) for first in range(0, len(square), _PART)
    ]
    return np.concatenate(ray.get(parts)).reshape(points, points)


def _losses_of_part(
    shared: tuple[Surroundings, tuple[Direction, Direction]], points: list[tuple[float, float]], threads: int
) -> list[float]:
    torch.set_num_threads(threads)
    at, directions = shared
    writable = Surroundings.copy_of(at.head, at.features, at.labels, at.loss)  # what Ray hands out is read-only
    return losses_at(writable, directions, points)


def _images_of_map(config: Config, table: FeatureTable) -> torch.Tensor:
    """The images of some records.

    Raises:
        ValueError: there are too few for the perplexity, or too few that differ.
    """
    options = config.figures
    rng = np.random.default_rng(options.seed)
    number = min(options.map_records, len(table.record_ids))
    records = np.sort(rng.choice(len(table.record_ids), number, replace=False))
    images = torch.from_numpy(np.flatnonzero(np.isin(table.record_of.numpy(), records)))
    if not options.perplexity < len(images):
        raise ValueError(f"figures.perplexity must be below the {len(images)} images of the map, got {options.perplexity}")
    different = len(np.unique(table.gather(images, "none").features.numpy(), axis=0))
    if not options.perplexity < different:  # of points in one place t-SNE knows no order, and crashes
        raise ValueError(
            f"figures.perplexity must be below the {different} images of the map that differ, got {options.perplexity}"
        )
    return images


def _feature_map(config: Config, table: FeatureTable, images: torch.Tensor) -> bytes:
    """PCA and t-SNE of the image features of some images."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    options = config.figures
    features = table.gather(images, "none").features.numpy()
    logger.info("feature map of %d images", len(images))
    reduced = PCA(min(50, *features.shape), random_state=0).fit_transform(features)  # as t-SNE's authors do before it
    tsne = TSNE(perplexity=options.perplexity, init="pca", random_state=options.seed % 2**32).fit_transform(reduced)
    generators = np.array(table.generators)[table.generator_of[images].numpy()]
    return feature_map_figure({"t-SNE": tsne, "PCA": reduced[:, :2]}, generators)
