"""Settings of an export."""

from dataclasses import dataclass, field

from rdd.config.checks import check

EXPORTED = ("head.onnx", "head.pt2", "detector.onnx", "detector.pt2")
"""Files that can be asked for."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A detector as files that run without this project."""

    detector: str = ""
    """Directory of the detector, such as runs/sample/detector."""
    output: str = ""
    """Directory to write; export.json in it says how to use the files."""
    files: list[str] = field(default_factory=lambda: list(EXPORTED))
    """Any of head.onnx and head.pt2, which take features of images, and detector.onnx and detector.pt2, which take their
    pixels; onnx is for ONNX runtimes, pt2 for torch.export.load."""
    weights: str = ""
    """File of the encoder's weights, which detector.onnx and detector.pt2 contain; by default looked for by their SHA-256 among
    what jobs/weights.py wrote."""
    without_text: bool = False
    """Export a detector of model.text_dropout for images alone; the vector that it has learned stands in for their text."""
    tolerance: float = 4e-5
    """Largest difference, in (0, 0.01], between the logits of a file and the detector's, of logits beyond 1 as a share of them;
    4e-5 moves no score by more than 1e-5."""

    def __post_init__(self) -> None:
        allowed = bool(self.files) and set(self.files) <= set(EXPORTED) and len(set(self.files)) == len(self.files)
        check(allowed, "export.files", f"be some of {', '.join(EXPORTED)}, each once", self.files)
        check(0 < self.tolerance <= 0.01, "export.tolerance", "lie in (0, 0.01]", self.tolerance)

    @property
    def with_tower(self) -> bool:
        """Whether a file is asked for that holds the encoder."""
        return any(name.startswith("detector") for name in self.files)
