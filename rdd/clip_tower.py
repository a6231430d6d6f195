"""The image tower of a CLIP: one batch of model input to named features, as open_clip computes them or compiled."""

import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from rdd.feature_names import PROJECTED, block_of


class ImageTower:
    """A frozen image tower.

    Args:
        visual: open_clip's image tower, on its device and in its precision; put into evaluation mode.
        channels_last: keep weights and inputs of convolutions with the channels of a pixel beside each other.
        compiled: run it through torch.compile. One graph serves batches of all sizes and is made at the first batch, or before
            it by :meth:`prepare`; other names of features make another.
    """

    def __init__(self, visual: Any, *, channels_last: bool = False, compiled: bool = False) -> None:
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.visual = visual.to(memory_format=self.memory_format).eval()
        self._compiled = compiled
        self._run: Callable[..., tuple[Tensor, list[Tensor]]] = _features
        if compiled:  # each tower for itself: torch.compile stops compiling a function of which there are many graphs
            self._run = torch.compile(_features, isolate_recompiles=True)  # type: ignore[call-overload]  # torch types it not

    def __call__(self, inputs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Features by name of one batch, ``(N, width)`` each, on the device and in the precision of the tower.

        Args:
            inputs: ``(N, 3, height, width)``, N at least 1, in the tower's precision and memory format.
            names: of the features: ``projected``, ``block_<k>``.

        Raises:
            RuntimeError: the tower is to be compiled and can not be.
        """
        blocks = {name: block for name in names if (block := block_of(name)) is not None}
        in_order = sorted(blocks.values())  # as the tower hands them out
        indices = [block - 1 for block in in_order]
        if self._compiled:
            projected, tokens = self._run_compiled(inputs, indices, projected=PROJECTED in names)
        else:
            projected, tokens = self._run(self.visual, inputs, indices, projected=PROJECTED in names)
        by_block = dict(zip(in_order, tokens, strict=True))
        return {name: by_block[blocks[name]] if name in blocks else projected for name in names}

    @torch.no_grad()  # not inference_mode: its tensors could not be trained on
    def prepare(self, inputs: Tensor, names: Sequence[str]) -> None:
        """Compile for some features now and not at the first batch; does nothing where the tower is not compiled.

        Args:
            inputs: as the tower takes them; their number does not matter.
            names: as in :meth:`__call__`.

        Raises:
            RuntimeError: it can not be compiled.
        """
        if self._compiled:
            self(inputs, names)

    def _run_compiled(self, inputs: Tensor, indices: list[int], *, projected: bool) -> tuple[Tensor, list[Tensor]]:
        number = len(inputs)
        if number == 1:  # of which torch.compile would make a graph of its own, in as much time as the first took
            inputs = torch.cat([inputs, inputs])
        torch._dynamo.maybe_mark_dynamic(inputs, 0)  # the last batch is smaller: one graph for all sizes
        try:
            whole, tokens = self._run(self.visual, inputs, indices, projected=projected)
        except TorchDynamoException as error:
            raise RuntimeError(_failed(error)) from None  # with its cause a job would print the hints that come last
        return whole[:number], [values[:number] for values in tokens]


def _features(visual: Any, inputs: Tensor, indices: list[int], *, projected: bool) -> tuple[Tensor, list[Tensor]]:
    """CLIP's own output (empty where it is not asked for), and the class token after each of some blocks, counted from 0."""
    if not indices:
        return visual(inputs), []
    passed = visual.forward_intermediates(
        inputs,
        indices=indices,
        stop_early=not projected,
        intermediates_only=not projected,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    tokens = [prefix[:, 0] for prefix in passed["image_intermediates_prefix"]]
    return passed["image_features"] if projected else inputs.new_empty(inputs.shape[0], 0), tokens


def _failed(error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"torch.compile failed on {platform.node()} ({said[:300]}); it needs a C++ compiler on a CPU, and Triton with a "
        "C compiler on a GPU: install it (such as g++, or name it in CXX) or set clip.compile to false"
    )
