"""Every number of the settings is checked on both sides of its bounds."""

import dataclasses

import pytest

from rdd.config import Config
from rdd.config.parse import override

NAN = float("nan")

BOUNDS = [  # leaf, values inside, values outside
    ("report.images", [0, 100], [-1, 101]),
    ("report.look_up", [0, 10**9], [-1]),
    ("export.tolerance", [1e-9, 0.01], [0.0, NAN, 0.0101]),
    ("fetch.per_host", [0, 1000], [-1, 1001]),
    ("fetch.num_workers", [1], [0]),
    ("fetch.cpus_per_worker", [0.0], [-0.1, NAN, float("inf")]),
    ("fetch.in_flight", [1, 10_000], [0, 10_001]),
    ("fetch.records_per_file", [1], [0]),
    ("fetch.files_per_worker", [1], [0]),
    ("fetch.connect_timeout_s", [0.1, 86400.0], [0.0, NAN, 86401.0]),
    ("fetch.read_timeout_s", [0.1, 86400.0], [0.0, NAN, 86401.0]),
    ("fetch.image_timeout_s", [0.1, 779.0], [0.0, NAN, 780.0, 86401.0]),
    ("fetch.max_bytes", [1, 2**30], [0, 2**30 + 1]),
    ("fetch.max_redirects", [0, 20], [-1, 21]),
    ("fetch.retries", [0, 20], [-1, 21]),
    ("fetch.backoff_s", [0.1, 86400.0], [0.0, NAN, 86401.0]),
    ("fetch.max_wait_s", [0.1, 839.0], [0.0, NAN, 840.0, 86401.0]),
    ("fetch.host_failures", [0], [-1]),
    ("fetch.placeholder_urls", [1], [0]),
    ("fetch.stall_timeout_s", [180.1, 86400.0], [180.0, NAN, 86401.0]),
    ("audit.max_images", [100], [99]),
    ("audit.folds", [2, 100], [1, 101]),
    ("audit.red_above", [0.5, 0.99], [0.49, 1.0, NAN]),
    ("audit.near", [0.1, 1.0], [0.0, 1.1, NAN]),
    ("audit.near_images", [1], [0]),
    ("audit.jpeg_quality", [1, 100], [0, 101]),
    ("audit.resized_to", [16, 2048], [15, 2049]),
    ("audit.cropped_to", [16, 2048], [15, 2049]),
    ("audit.probe_c", [0.01], [0.0, NAN, float("inf")]),
    ("audit.resamples", [100, 10**6], [99, 10**6 + 1]),
    ("audit.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("tune.num_trials", [1], [0]),
    ("tune.grace_epochs", [1], [0]),
    ("tune.reduction_factor", [2], [1]),
    ("tune.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("tune.cpus_per_trial", [0.1], [0.0, NAN]),
    ("tune.gpus_per_trial", [0.0, 0.25], [-0.1, NAN]),
    ("tune.max_concurrent", [0], [-1]),
    ("tune.keep_best", [1], [0]),
    ("ablate.seeds", [1], [0]),
    ("ablate.cpus_per_run", [0.1], [0.0, NAN]),
    ("ablate.gpus_per_run", [0.0], [-0.1, NAN]),
    ("ablate.resamples", [100, 10**6], [99, 10**6 + 1]),
    ("ablate.probe_c", [0.01], [0.0, NAN, float("inf")]),
    ("ablate.probe_neighbours", [1], [0]),
    ("ablate.probe_images", [100], [99]),
    ("figures.points", [3, 21], [1, 4]),
    ("figures.span", [0.1], [0.0, NAN, float("inf")]),
    ("figures.landscape_images", [2], [1]),
    ("figures.radius", [0.1], [0.0, NAN]),
    ("figures.map_records", [5], [4]),
    ("figures.perplexity", [1.0], [0.0, NAN]),
    ("figures.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("figures.cpus_per_task", [0.1], [0.0, NAN]),
    ("features.shuffle_mib", [1], [0]),
    ("model.text_dropout", [0.0, 0.99], [-0.1, 1.0, NAN]),
    ("optimizer.max_grad_norm", [0.0, 5.0], [-1.0, NAN, float("inf")]),
    ("sample.num_records", [1], [0]),
    ("sample.records_per_file", [1], [0]),
    ("sample.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("records.max_pixels", [1, 178_956_970], [0, 178_956_971]),
    ("clip.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("clip.batch_size", [1], [0]),
    ("clip.model", ["x"], [""]),
    ("clip.pretrained", ["x"], [""]),
    ("clip.precision", ["bf16"], ["fp16", "fp8"]),
    ("embed.degrade_seed", [0, 2**63 - 1], [-1, 2**63]),
    ("embed.views", [0, 16], [-1, 17]),
    ("embed.limit", [0, 1], [-1]),
    ("embed.images_per_s", [0.0, 0.5], [-0.1, float("inf"), NAN]),
    ("embed.dollars_per_hour", [0.0, 0.5], [-0.1, float("inf"), NAN]),
    ("embed.num_workers", [1], [0]),
    ("embed.cpus_per_worker", [0.0], [-0.1, NAN]),
    ("embed.gpus_per_worker", [0.0], [-0.1, NAN]),
    ("embed.threads_per_worker", [1, 1024], [0, 1025]),
    ("embed.min_workers", [0, 1], [-1, 2]),
    ("embed.cpus_per_task", [0.1], [0.0, NAN]),
    ("embed.records_per_task", [0, 1], [-1]),
    ("embed.records_per_commit", [0, 1], [-1]),
    ("embed.file_mib", [0, 1], [-1]),
    ("embed.max_quarantined_share", [0.0, 1.0], [-0.1, 1.1, NAN]),
    ("embed.stall_timeout_s", [0.1, 86_400.0], [0.0, float("inf"), NAN]),
    ("features.views", [0, 16], [-1, 17]),
    ("features.split_seed", [0, 2**63 - 1], [-1, 2**63]),
    ("features.validation_share", [0.1], [0.0, 1.0, 0.96, NAN]),
    ("features.test_share", [0.1], [0.0, 1.0, 0.96, NAN]),
    ("features.num_folds", [2], [1]),
    ("features.fold", [0, 4], [-1, 5]),
    ("model.hidden", [1, 65_536], [0, 65_537]),
    ("model.layers", [0, 64], [-1, 65]),
    ("model.projection", [1, 65_536], [0, 65_537]),
    ("model.dropout", [0.0, 0.99], [-0.1, 1.0, NAN]),
    ("loss.alpha", [1e-3, 1.0], [0.0, 1.1, NAN]),
    ("loss.gamma", [0.0, 1.0], [-0.1, 1.1, NAN]),
    ("loss.eta", [0.1, 1.0], [0.0, 1.1, NAN]),
    ("loss.p", [1.1, 100.0], [1.0, 100.1, NAN]),
    ("loss.consistency", [0.0], [-0.1, NAN, float("inf")]),
    ("sam.rho", [0.0], [-0.1, float("inf"), NAN]),
    ("optimizer.lr", [1e-3], [0.0, float("inf"), NAN]),
    ("optimizer.beta1", [0.0], [-0.1, 1.0, NAN]),
    ("optimizer.beta2", [0.0], [-0.1, 1.0, NAN]),
    ("optimizer.weight_decay", [0.0], [-0.1, float("inf"), NAN]),
    ("optimizer.warmup_share", [0.0, 0.9], [-0.1, 1.0, NAN]),
    ("optimizer.min_lr", [0.0, 1e-3], [-1.0, 1.0, NAN]),
    ("train.epochs", [1], [0]),
    ("train.batch_size", [2], [1]),
    ("train.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("train.stall_timeout_s", [0.1, 86_400.0], [0.0, float("inf"), NAN]),
    ("train.threads_per_worker", [1, 1024], [0, 1025]),
    ("train.max_failures", [0], [-1]),
    ("train.max_preemptions", [0], [-1]),
    ("train.checkpoint_s", [1.0, 86_400.0], [0.9, 86_401.0, NAN]),
    ("train.exchange_timeout_s", [1.0, 86_400.0], [0.9, 86_401.0, NAN]),
    ("evaluate.false_positive_rate", [0.01], [0.0, 1.0, NAN]),
    ("evaluate.band_false_positive_rate", [0.001], [0.0, 1.0, NAN]),
    ("evaluate.band_false_negative_rate", [0.001], [0.0, 1.0, NAN]),
    ("evaluate.coverage_levels", [[], [0.1, 0.99]], [[0.0], [1.0], [0.9, 0.9], [NAN]]),
    ("evaluate.reference_images", [0, 100, 20_000], [-1, 99, 20_001]),
    ("evaluate.reference_rate", [0.001], [0.0, 1.0, NAN]),
    ("evaluate.resamples", [100, 10**6], [99, 10**6 + 1]),
    ("evaluate.seed", [0, 2**63 - 1], [-1, 2**63]),
    ("scaling.num_workers", [0], [-1]),
    ("scaling.min_workers", [0, 1], [-1, 2]),
    ("scaling.cpus_per_worker", [0.1], [0.0, NAN]),
    ("scaling.gpus_per_worker", [0.0], [-0.1, NAN]),
    ("cluster.address", ["local"], [""]),
    ("cluster.num_cpus", [0], [-1]),
    ("cluster.wait_s", [0.0], [-0.1, float("inf"), NAN]),
    ("cluster.start_timeout_s", [0.1, 86_400.0], [0.0, float("inf"), NAN]),
]


@pytest.mark.parametrize(("leaf", "inside", "outside"), BOUNDS, ids=[leaf for leaf, _, _ in BOUNDS])
def test_values_are_checked_on_both_sides_of_each_bound(leaf: str, inside: list, outside: list) -> None:
    section, name = leaf.split(".")
    for value in inside:
        assert getattr(getattr(override(Config(), {leaf: value}), section), name) == value
    for value in outside:
        with pytest.raises(ValueError, match=name):
            override(Config(), {leaf: value})


def test_every_number_of_the_tree_has_its_bounds_tested() -> None:
    numbers = {
        f"{section.name}.{leaf.name}"
        for section in dataclasses.fields(Config)
        for leaf in dataclasses.fields(section.type)
        if leaf.type in (int, float)
    }
    assert numbers <= {leaf for leaf, _, _ in BOUNDS}
