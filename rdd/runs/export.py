"""The export of a detector: its files, checked, and export.json beside them, which says how to use them."""

import logging
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rdd import storage
from rdd.clip import ClipEncoder
from rdd.config import Config
from rdd.config.stages import EXPORT, require
from rdd.detector import Detector
from rdd.export.description import description
from rdd.export.export import export_files
from rdd.export.modules import folded_head
from rdd.known_weights import find_weights
from rdd.runs.stage import begun, finished
from rdd.tracking.run_metrics import rounded

logger = logging.getLogger(__name__)


def run_export(config: Config) -> dict[str, Any]:
    """Export a detector; a finished export only returns its summary.

    Returns:
        ``output``, ``model_version``, ``files`` and of each its ``largest_difference`` to the detector's logits.

    Raises:
        ValueError: the request is wrong, or the output holds the export of another detector.
        RuntimeError: a file is torn, or an exported one does not give the detector's logits.
    """
    require(EXPORT, config)
    options = config.export
    output = storage.absolute(options.output)
    detector = Detector.load(options.detector)
    if (result := finished(EXPORT, config)) is not None:
        if result["model_version"] != detector.version:
            raise ValueError(
                f"export.output must be another directory, since {output} holds the export of the detector "
                f"{result['model_version'][:12]}..., got {detector.version[:12]}..."
            )
        return _summary(output, result)
    head = folded_head(detector, without_text=options.without_text)
    encoder = _encoder(detector, config)
    with begun(EXPORT, config, tags={"rdd.model_version": detector.version}) as stage, tempfile.TemporaryDirectory() as folder:
        files = export_files(detector, head, encoder, options.files, Path(folder), tolerance=options.tolerance)
        for name in files:
            with storage.atomic_output(storage.join(output, name)) as stream, open(Path(folder, name), "rb") as file:
                shutil.copyfileobj(file, stream)
        differences = {f"export/difference_{name}": of["largest_difference"] for name, of in files.items() if _runs(of)}
        stage.tracker.metrics(rounded(differences), step=0)
        result = stage.finish(description(detector, head, files))
        logged = [name for name in files if name.startswith("head.")]  # the others hold the encoder, hundreds of megabytes
        stage.tracker.artefacts(output, "export", only=[*logged, EXPORT.result_file])
    return _summary(output, result)


def _encoder(detector: Detector, config: Config) -> ClipEncoder | None:
    """The detector's encoder in float32 on the CPU, where a file with the tower is asked for.

    Raises:
        ValueError: its weights are not found, or others were given.
    """
    options = config.export
    if not options.with_tower and not options.weights:
        return None
    identity = detector.encoder_identity
    weights = find_weights(identity, options.weights, option="--export.weights")
    encoder = ClipEncoder(identity["model"], weights, normalize=identity["normalized"])
    detector.check_encoder(asdict(encoder.identity))
    return encoder


def _runs(file: dict[str, Any]) -> bool:
    """Whether a file was run; one that holds the weights of another was not."""
    return "largest_difference" in file


def _summary(output: str, result: dict[str, Any]) -> dict[str, Any]:
    differences = {name: file["largest_difference"] for name, file in result["files"].items() if _runs(file)}
    return {
        "output": output,
        "model_version": result["model_version"],
        "files": list(result["files"]),
        "largest_difference": differences,
    }
