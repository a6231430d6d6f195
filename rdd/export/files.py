"""A module as a program of torch.export and as ONNX, for batches of any size, and both run again from their files."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

OUTPUT = "logits"
"""Name of what every exported file gives: ``(batch,)`` float32."""

Runner = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""From named inputs to logits."""


def traced(module: nn.Module, examples: Mapping[str, Tensor]) -> ExportedProgram:
    """The graph of a module whose inputs share their first dimension, the batch.

    Args:
        module: in evaluation mode, on the CPU.
        examples: of each argument a batch of at least two; a batch of one would be taken for a fixed size.
    """
    batch = Dim("batch", min=1)
    with _quiet(), torch.no_grad():
        shapes = {name: {0: batch} for name in examples}
        program = torch.export.export(module, (), dict(examples), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which would be written into the files
    return program


def write_program(program: ExportedProgram, path: Path) -> list[Path]:
    """Write a program as torch.export does (``.pt2``: an archive of JSON and tensors)."""
    with _quiet():
        torch.export.save(program, path)
    return [path]


def write_onnx(program: ExportedProgram, path: Path) -> list[Path]:
    """Write a program as ONNX, in the operator set that torch translates to.

    Returns:
        The file, and beside it ``<file>.data`` with the weights where they take more than 1.5 GiB, since a file of ONNX holds
        2 GiB at most; both must be kept together.
    """
    names = list(_input_names(program))
    with _quiet(), torch.no_grad():
        translated = torch.onnx.export(program, dynamo=True, input_names=names, output_names=[OUTPUT], verbose=False)
        assert translated is not None
        translated.save(path)
    data = path.with_name(f"{path.name}.data")
    return [path, data] if data.exists() else [path]


def run_program(path: Path) -> Runner:
    """A program of torch.export from its file."""
    with _quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return module(**{name: torch.from_numpy(values) for name, values in inputs.items()}).numpy()

    return run


def run_onnx(path: Path) -> Runner:
    """An ONNX file in onnxruntime on the CPU, on as many threads as torch takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([OUTPUT], dict(inputs))[0]


def onnx_facts(path: Path) -> dict[str, Any]:
    """Operator set of an ONNX file."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return {"opset": next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))}


def _input_names(program: ExportedProgram) -> Iterator[str]:
    for spec in program.graph_signature.user_inputs:
        yield str(spec)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own work; what they can not do they raise."""
    noisy = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in noisy]
    try:
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
