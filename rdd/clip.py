"""The frozen CLIP encoder, through open_clip: images or prompts to features.

Preprocessing is open_clip's own, to the bit: its transforms on pictures run where the bytes are decoded (CPU tasks), its
scaling and normalisation where the model is. Pictures keep the mode that ``Image.open`` gives them until open_clip's own
conversion to RGB, which comes after its resize.
"""

import logging
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import Normalize, ToTensor

from rdd.clip_models import image_feature_widths, model_config
from rdd.clip_weights import (
    RANDOM,
    activation_of_tag,
    check_activation,
    image_only,
    known_activations,
    tensor_names,
    weights_path,
)
from rdd.config import ClipConfig
from rdd.feature_names import PROJECTED, block_of
from rdd.hashing import sha256_bytes, sha256_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What features depend on; two encoders with equal identity give equal features up to rounding."""

    model: str
    """open_clip's model name."""
    pretrained: str
    """Tag, file name or 'random'."""
    weights_sha256: str
    """Of the file of weights; of the tensors for 'random'."""
    embed_dim: int
    """Width D of a feature vector."""
    quick_gelu: bool
    """Whether the model runs with QuickGELU."""
    normalized: bool
    """Whether feature vectors have length 1."""
    has_text: bool
    """Whether the weights have a text tower."""
    preprocessing: dict[str, Any]
    """open_clip's preprocessing config."""


class Preprocessor:
    """open_clip's inference transforms on a picture, up to uint8; picklable, and needs no model.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.
        pretrained: tag, file or 'random'; tags bring their own mean, interpolation and resize mode.
    """

    def __init__(self, model: str, pretrained: str) -> None:
        config = asdict(PreprocessCfg())
        config["size"] = model_config(model)["vision_cfg"]["image_size"]
        self.config = merge_preprocess_dict(config, open_clip.get_pretrained_cfg(model, pretrained))
        steps = image_transform_v2(PreprocessCfg(**self.config), is_train=False).transforms
        cut = next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))
        self._on_picture = steps[:cut]
        self._normalize = next(step for step in steps[cut:] if isinstance(step, Normalize))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resized and cropped picture, ``(size, size, 3)`` uint8."""
        for step in self._on_picture:
            image = step(image)
        return np.asarray(image)

    def tensor(self, pixels: Tensor) -> Tensor:
        """Model input ``(N, 3, size, size)`` float32 from pixels ``(N, size, size, 3)`` uint8, on their device."""
        return self._normalize(pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div(255))


class ClipEncoder:
    """A frozen CLIP.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.
        pretrained: open_clip's tag, a local file of weights (of both towers, or ``visual.*`` alone), or 'random'.
        device: where it runs.
        precision: 'fp32', 'bf16' or 'fp16', of weights and activations.
        seed: of the weights of pretrained 'random'.
        normalize: scale each feature vector to length 1.

    Raises:
        ValueError: unknown model or tag, weights of another model, or weights trained with the other activation.
        RuntimeError: the device is absent, or a tag's weights are not here and no hub is in reach.
    """

    def __init__(
        self,
        model: str,
        pretrained: str,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        seed: int = 0,
        normalize: bool = False,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError("clip.device is cuda but torch sees no GPU here; set clip.device to cpu or run where one is")
        config = model_config(model)
        quick_gelu = bool(config.get("quick_gelu", False))
        path, digest = None, ""
        if pretrained != RANDOM:
            tag_activation = activation_of_tag(model, pretrained)
            if tag_activation is not None:  # checked before a download of gigabytes
                check_activation(model, quick_gelu, pretrained, tag_activation)
            path = weights_path(model, pretrained)
            digest = sha256_file(path)
            if tag_activation is None:
                known = known_activations()
                check_activation(model, quick_gelu, pretrained, known.get(digest, known.get(digest[:8])))
        network, has_text = _build(model, path, precision, seed)
        self._visual = network.visual.to(device).eval()
        self._network = network.to(device).eval() if has_text else None
        self._tokenizer = open_clip.get_tokenizer(model) if has_text else None
        self._device, self._normalize = torch.device(device), normalize
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.preprocessor = Preprocessor(model, pretrained)
        self.identity = EncoderIdentity(
            model=model,
            pretrained=os.path.basename(pretrained),
            weights_sha256=digest or _hash_tensors(network),
            embed_dim=config["embed_dim"],
            quick_gelu=quick_gelu,
            normalized=normalize,
            has_text=has_text,
            preprocessing=self.preprocessor.config,
        )

    @classmethod
    def from_config(cls, config: ClipConfig) -> "ClipEncoder":
        """The encoder that a config names."""
        return cls(
            config.model,
            config.pretrained,
            device=config.device,
            precision=config.precision,
            seed=config.seed,
            normalize=config.normalize,
        )

    def encode_images(self, images: Sequence[Image.Image] | Tensor, *, batch_size: int = 64) -> Tensor:
        """CLIP's own output for images, the feature ``projected``: ``(N, D)`` float32 on the CPU; as :meth:`image_features`."""
        return self.image_features(images, [PROJECTED], batch_size=batch_size)[PROJECTED]

    @torch.no_grad()  # not inference_mode: its tensors could not be trained on
    def image_features(
        self, images: Sequence[Image.Image] | Tensor, names: Sequence[str], *, batch_size: int = 64
    ) -> dict[str, Tensor]:
        """Features of images by name, all of one forward pass, which ends after the last block that is asked for.

        Args:
            images: pictures, or pixels ``(N, size, size, 3)`` uint8 that :meth:`Preprocessor.pixels` made.
            names: ``projected``, CLIP's own output, D wide; ``block_<k>``, the class token after block k of the image tower,
                counted from 1, before the last norm and the projection: as wide as the tower.
            batch_size: images in one forward pass.

        Returns:
            Of each name ``(N, width)`` float32 on the CPU.

        Raises:
            ValueError: a name is none, or the image tower has no such block.
        """
        widths = image_feature_widths(self.identity.model, names)
        if not isinstance(images, Tensor):
            size = self.preprocessor.config["size"]
            pixels = [torch.from_numpy(self.preprocessor.pixels(image).copy()) for image in images]
            images = torch.stack(pixels) if pixels else torch.empty((0, size, size, 3), dtype=torch.uint8)
        features = {name: [torch.empty((0, width))] for name, width in widths.items()}
        for start in range(0, len(images), batch_size):
            pixels_on_device = images[start : start + batch_size].to(self._device, non_blocking=True)
            inputs = self.preprocessor.tensor(pixels_on_device).to(self._dtype)
            for name, batch in self._forward(inputs, list(widths)).items():
                features[name].append(self._finish(batch))
        return {name: torch.cat(batches) for name, batches in features.items()}

    def _forward(self, inputs: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Features of one batch, on the device of the model and in its precision."""
        blocks = {name: block for name in names if (block := block_of(name)) is not None}
        if not blocks:
            return {name: self._visual(inputs) for name in names}
        in_order = sorted(blocks.values())  # as the tower hands them out
        passed = self._visual.forward_intermediates(
            inputs,
            indices=[block - 1 for block in in_order],
            stop_early=PROJECTED not in names,
            intermediates_only=PROJECTED not in names,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        tokens = dict(zip(in_order, passed["image_intermediates_prefix"], strict=True))
        return {name: tokens[blocks[name]][:, 0] if name in blocks else passed["image_features"] for name in names}

    @torch.no_grad()  # not inference_mode: its tensors could not be trained on
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Text features.

        Args:
            texts: N prompts.
            batch_size: prompts in one forward pass.

        Returns:
            Features ``(N, D)`` float32 on the CPU, and ``(N,)`` bool: whether the prompt was longer than CLIP's context
            (77 tokens) and was cut there.

        Raises:
            RuntimeError: the weights have no text tower.
        """
        if self._network is None or self._tokenizer is None:
            raise RuntimeError(f"{self.identity.pretrained} holds an image tower alone, so prompts can not be encoded")
        features, cut = [torch.empty((0, self.identity.embed_dim))], [torch.empty(0, dtype=torch.bool)]
        length = self._tokenizer.context_length
        padding = self._tokenizer([""])[0, -1]
        for start in range(0, len(texts), batch_size):
            batch = list(texts[start : start + batch_size])
            one_more = self._tokenizer(batch, context_length=length + 1)
            cut.append(one_more[:, length] != padding)
            tokens = self._tokenizer(batch).to(self._device)
            features.append(self._finish(self._network.encode_text(tokens)))
        return torch.cat(features), torch.cat(cut)

    def _finish(self, features: Tensor) -> Tensor:
        features = features.to(torch.float32)
        if self._normalize:
            features = torch.nn.functional.normalize(features, dim=-1)
        return features.cpu()


def _build(model: str, path: str | None, precision: str, seed: int) -> tuple[Any, bool]:
    """The network with its weights, and whether they reach its text tower."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        logging.disable(logging.WARNING)  # open_clip warns that nothing was loaded; that comes below
        try:
            network = open_clip.create_model(model, pretrained=None, load_weights=False, precision=precision, device="cpu")
        finally:
            logging.disable(logging.NOTSET)
    if path is None:
        return network, True
    try:
        if not path.endswith(".safetensors"):
            open_clip.load_checkpoint(network, path, weights_only=True)
            return network, True
        if not image_only(tensor_names(path)):
            open_clip.load_checkpoint(network, path)
            return network, True
        state = load_file(path)
        network.visual.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in state.items()})
    except (RuntimeError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} does not hold weights of {model}: {' '.join(str(error).split())[:200]}") from error
    return network, False


def _hash_tensors(network: torch.nn.Module) -> str:
    state = network.state_dict()
    return sha256_bytes(b"".join(name.encode() + state[name].float().numpy().tobytes() for name in sorted(state)))
