"""The head that a config describes, and which features can be given to it."""

from collections.abc import Sequence
from dataclasses import asdict

from rdd.block_mixer import check_blocks
from rdd.config import Config, ModelConfig
from rdd.features import TextMode
from rdd.model import DetectorHead


def build_head(
    config: Config, in_features: int, text_features: int | None = None, input_widths: Sequence[int] = ()
) -> DetectorHead:
    """The head of a config, on the CPU, in float32; the moments of its inputs are yet to be set.

    Args:
        config: the run.
        in_features: columns of a batch.
        text_features: how many of them are text; by default half, if any are.
        input_widths: of each input of an image, for a head of kind ``blocks``.
    """
    return DetectorHead(in_features, **asdict(config.model), text_features=text_features, input_widths=input_widths)


def check_head(config: ModelConfig, text_mode: TextMode, input_widths: Sequence[int]) -> None:
    """Refuse a head that some features can not be given to.

    Args:
        config: of the head.
        text_mode: of the run.
        input_widths: of each input of an image.

    Raises:
        ValueError: text is to be dropped where there is none, or inputs of several widths are to be weighed.
    """
    if text_mode == "none" and config.text_dropout > 0:
        raise ValueError(f"model.text_dropout must be 0 where images go without text, got {config.text_dropout}")
    if config.kind == "blocks":
        check_blocks(input_widths)
