"""All files of an export, each run again and compared with the detector."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rdd.clip import ClipEncoder
from rdd.detector import Detector
from rdd.export.files import Runner, onnx_facts, run_onnx, run_program, traced, write_onnx, write_program
from rdd.export.folding import FoldedHead
from rdd.export.modules import PixelsToLogits
from rdd.export.parity import Probe, clouds, head_probes, image_features, largest_difference, pixel_probes
from rdd.hashing import sha256_file

logger = logging.getLogger(__name__)

_TRACED_WITH = 2
"""Images of the batch that a graph is traced with; of one its size would be fixed."""

_KINDS: dict[str, tuple[Callable[[ExportedProgram, Path], list[Path]], Callable[[Path], Runner]]] = {
    ".onnx": (write_onnx, run_onnx),
    ".pt2": (write_program, run_program),
}


def export_files(
    detector: Detector, head: FoldedHead, encoder: ClipEncoder | None, names: Sequence[str], folder: Path, *, tolerance: float
) -> dict[str, dict[str, Any]]:
    """Write files and compare each with the detector.

    Args:
        detector: that is exported.
        head: of it, for export.
        encoder: its encoder, in float32 on the CPU; a head needs none.
        names: of the files, such as ``head.onnx``.
        folder: where they are written.
        tolerance: largest difference, as :func:`rdd.export.parity.largest_difference` has it.

    Returns:
        By name of the file (``detector.onnx`` of 1.5 GiB and more has another one beside it with its weights) its ``sha256``,
        ``bytes`` and, where it can be run, ``largest_difference`` and, of ONNX, ``opset``.

    Raises:
        RuntimeError: a file does not give the detector's logits.
    """
    files: dict[str, dict[str, Any]] = {}
    for part in ("head", "detector"):
        wanted = [name for name in names if name.startswith(f"{part}.")]
        if not wanted:
            continue
        probes = _probes(part, detector, head, encoder)
        program = _program(part, detector, head, encoder)
        for name in wanted:
            write, run = _KINDS[Path(name).suffix]
            written = write(program, folder / name)
            difference = largest_difference(run(folder / name), probes)
            if not difference <= tolerance:  # NaN is refused, too
                raise RuntimeError(
                    f"{name} must give the detector's logits to export.tolerance {tolerance:g}, got a largest difference of "
                    f"{difference:.3g}; a larger tolerance takes it"
                )
            logger.info("%s gives the detector's logits: the largest difference is %.2g", name, difference)
            files |= {path.name: {"sha256": sha256_file(str(path)), "bytes": path.stat().st_size} for path in written}
            files[name]["largest_difference"] = difference
            files[name] |= onnx_facts(folder / name) if name.endswith(".onnx") else {}
    return files


def _program(part: str, detector: Detector, head: FoldedHead, encoder: ClipEncoder | None) -> ExportedProgram:
    module: nn.Module = head
    examples: dict[str, Tensor] = {"features": torch.zeros(_TRACED_WITH, sum(detector.inputs.values()))}
    if part == "detector":
        assert encoder is not None
        module = PixelsToLogits(encoder, list(detector.inputs), head)
        size = (encoder.preprocessor.height, encoder.preprocessor.width)
        examples = {"pixels": torch.zeros(_TRACED_WITH, *size, 3, dtype=torch.uint8)}
    if head.text_width:
        examples["text_features"] = torch.zeros(_TRACED_WITH, head.text_width)
    return traced(module, examples)


def _probes(part: str, detector: Detector, head: FoldedHead, encoder: ClipEncoder | None) -> list[Probe]:
    if part == "detector":
        assert encoder is not None
        return list(pixel_probes(detector, encoder, head.text_width))
    pictured = None
    if encoder is not None:
        pictured = image_features(detector, encoder, clouds(encoder, 3, torch.Generator().manual_seed(1)))
    return list(head_probes(detector, head.text_width, pictured))
