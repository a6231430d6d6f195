"""Settings that older directories do not know, and what they were there."""

from collections.abc import Mapping
from typing import Any

from rdd.feature_names import PROJECTED

ADDED: Mapping[str, Any] = {
    "clip.projected": True,
    "clip.blocks": [],
    "clip.float32": [],
    "features.inputs": [PROJECTED],
    "features.views": 0,
    "loss.consistency": 0.0,
    "model.kind": "mlp",
    "model.standardize": False,
    "model.projection": 128,
    "ablate.probe_c": 0.01,
    "ablate.probe_neighbours": 10,
    "ablate.probe_images": 20_000,
    "features.leave_out": [],
    "embed.require_all_generated": False,
    "embed.beside": [],
    "embed.degrade": [],
    "embed.degrade_seed": 0,
    "embed.views": 0,
    "embed.view_degrade": ["blur 0 to 3 p 0.5", "jpeg 30 to 100 p 0.5"],
    "embed.limit": 0,
    "evaluate.families": {},
    "audit.pixels": False,
    "audit.jpeg_quality": 75,
    "audit.resized_to": 224,
    "audit.cropped_to": 256,
    "audit.probe_c": 0.01,
    "evaluate.band_false_positive_rate": 0.01,  # earlier detectors have no bands; one that is still to be made gets them
    "evaluate.band_false_negative_rate": 0.05,
    "evaluate.coverage_levels": [0.9, 0.95],
    "evaluate.shift_labels": "",
    "evaluate.reference_images": 2000,  # as for the bands: earlier detectors have no reference
    "evaluate.reference_rate": 0.01,
}
"""Settings that came later, with what they were in a directory whose ``config.yaml`` lacks them, so that it is gone on with."""
