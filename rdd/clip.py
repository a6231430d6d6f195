"""The frozen CLIP encoder, through open_clip: images or prompts to features.

Preprocessing is open_clip's own, to the bit: its steps on pictures run where the bytes are decoded (:mod:`rdd.preprocessing`),
its scaling and normalisation where the model is.
"""

import contextlib
import logging
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import Normalize

from rdd.clip_identity import described
from rdd.clip_models import image_feature_widths, model_config, preprocessing_of
from rdd.clip_tower import ImageTower
from rdd.clip_weights import RANDOM, checked_weights, image_only, tensor_shapes
from rdd.config import ClipConfig
from rdd.feature_names import PROJECTED, TEXT_ORIGINAL
from rdd.hashing import sha256_bytes
from rdd.preprocessing import Preprocessor
from rdd.tokens import PromptTokenizer

logger = logging.getLogger(__name__)

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # pixels are views of what Arrow holds


class ClipEncoder:
    """A frozen CLIP.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.
        pretrained: open_clip's tag, a local file of weights (of both towers, or ``visual.*`` alone), or 'random'.
        device: where it runs.
        precision: 'fp32', 'bf16' or 'fp16', of weights and activations.
        seed: of the weights of pretrained 'random'.
        normalize: scale each feature vector to length 1.
        channels_last: memory format of convolutions, see :class:`rdd.clip_tower.ImageTower`.
        compile: run the image tower through torch.compile; prompts are few, and their tower runs as it is.

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
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError("clip.device is cuda but torch sees no GPU here; set clip.device to cpu or run where one is")
        model_config(model)  # refuses an unknown one
        path, digest = (None, "") if pretrained == RANDOM else checked_weights(model, pretrained)
        network, has_text = _build(model, path, precision, seed)
        self._tower = ImageTower(network.visual.to(device), channels_last=channels_last, compiled=compile)
        self._network = network.to(device).eval() if has_text else None
        self._tokenizer = PromptTokenizer(model) if has_text else None
        self._device, self._normalize = torch.device(device), normalize
        self._copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.preprocessor = Preprocessor(preprocessing_of(model, pretrained))
        self._scale = Normalize(self.preprocessor.config["mean"], self.preprocessor.config["std"])
        digest = digest or _hash_tensors(network if precision == "fp32" else _build(model, None, "fp32", seed)[0])
        self.identity = described(model, pretrained, digest, normalize=normalize, has_text=has_text)

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
            channels_last=config.channels_last,
            compile=config.compile,
        )

    @property
    def visual(self) -> Any:
        """open_clip's image tower, on the device and in the precision of the encoder."""
        return self._tower.visual

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
            images = self._stacked(images)
        starts = range(0, len(images), batch_size)
        passes = [self.launch(images[start : start + batch_size], list(widths)).features() for start in starts]
        return {name: torch.cat([torch.empty((0, width)), *(done[name] for done in passes)]) for name, width in widths.items()}

    def _stacked(self, pictures: Sequence[Image.Image]) -> Tensor:
        height, width = self.preprocessor.height, self.preprocessor.width
        pixels = [self.preprocessor.pixels(picture) for picture in pictures]
        return self.staged(np.stack(pixels) if pixels else np.empty((0, height, width, 3), dtype=np.uint8))

    def staged(self, pixels: np.ndarray) -> Tensor:
        """Pixels where the device can fetch them: themselves on a CPU, a copy in pinned memory for a GPU.

        Args:
            pixels: ``(N, height, width, 3)`` uint8, which are only read.
        """
        tensor = torch.from_numpy(pixels)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    @torch.no_grad()  # not inference_mode: its tensors could not be trained on
    def launch(self, pixels: Tensor, names: Sequence[str]) -> "Launched":
        """Start one forward pass of the image tower; on a GPU it returns before it is done.

        Args:
            pixels: ``(N, height, width, 3)`` uint8, as :meth:`staged` gives them.
            names: of the features, as in :meth:`image_features`.
        """
        with self._copying():
            on_device = pixels.to(self._device, non_blocking=True)
        self._wait_for_copies(on_device)
        features = self._tower(self.scaled(on_device).to(self._dtype), names)
        return Launched({name: self._finish(values) for name, values in features.items()})

    def prepare(self, names: Sequence[str]) -> None:
        """Compile for some features now and not at the first batch; without ``compile`` there is nothing to do.

        Args:
            names: of the features, as in :meth:`image_features`.

        Raises:
            RuntimeError: torch.compile finds no compiler here.
        """
        pixels = torch.zeros((2, self.preprocessor.height, self.preprocessor.width, 3), dtype=torch.uint8, device=self._device)
        self._tower.prepare(self.scaled(pixels).to(self._dtype), names)

    def scaled(self, pixels: Tensor) -> Tensor:
        """Model input ``(N, 3, height, width)`` float32 from pixels ``(N, height, width, 3)`` uint8, on their device."""
        channels_first = pixels.permute(0, 3, 1, 2).contiguous(memory_format=self._tower.memory_format)
        return self._scale(channels_first.to(torch.float32).div(255))

    def _copying(self) -> contextlib.AbstractContextManager[Any]:
        """A stream of its own for copies to a GPU, so that they run beside the forward pass before."""
        return contextlib.nullcontext() if self._copies is None else torch.cuda.stream(self._copies)

    def _wait_for_copies(self, copied: Tensor) -> None:
        if self._copies is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._copies)
            copied.record_stream(computing)  # its memory is the copying stream's, and must outlive the forward pass

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
        if self._tokenizer is None:
            raise RuntimeError(f"{self.identity.pretrained} holds an image tower alone, so prompts can not be encoded")
        tokens, cut = self._tokenizer(texts)
        batches = (torch.from_numpy(tokens[start : start + batch_size]) for start in range(0, len(texts), batch_size))
        features = [self.launch_tokens(batch, TEXT_ORIGINAL).features()[TEXT_ORIGINAL] for batch in batches]
        return torch.cat([torch.empty((0, self.identity.embed_dim)), *features]), torch.from_numpy(cut)

    @torch.no_grad()  # not inference_mode: its tensors could not be trained on
    def launch_tokens(self, tokens: Tensor, name: str) -> "Launched":
        """Start one forward pass of the text tower; on a GPU it returns before it is done.

        Args:
            tokens: ``(N, L)`` integers, as :class:`rdd.tokens.PromptTokenizer` gives them.
            name: of the feature.
        """
        assert self._network is not None, "checked before any work starts"
        features = self._network.encode_text(tokens.to(self._device, torch.int64, non_blocking=True))
        return Launched({name: self._finish(features)})

    def _finish(self, features: Tensor) -> Tensor:
        features = features.to(torch.float32)
        if self._normalize:
            features = torch.nn.functional.normalize(features, dim=-1)
        return features


class Launched:
    """Features by name that a device may still be computing.

    Args:
        features: of each name ``(N, width)``, on the device.
    """

    def __init__(self, features: dict[str, Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._features = features
        if any(values.device.type == "cuda" for values in features.values()):
            self._features = {name: _to_host(values) for name, values in features.items()}
            self._event = torch.cuda.Event()
            self._event.record()

    def features(self) -> dict[str, Tensor]:
        """Of each name ``(N, width)`` float32 on the CPU, once they are there; other work on the device is not waited for."""
        if self._event is not None:
            self._event.synchronize()
        return self._features


def _to_host(values: Tensor) -> Tensor:
    """A copy in pinned memory, which is not there yet."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _build(model: str, path: str | None, precision: str, seed: int) -> tuple[Any, bool]:
    """The network with its weights, and whether they reach its text tower."""
    if path is None:
        return _created(model, precision, seed), True
    try:
        if path.endswith(".safetensors") and image_only(tensor_shapes(path)):
            return _with_image_tower(model, path, precision, seed), False
        network = _created(model, precision, seed)
        open_clip.load_checkpoint(network, path, weights_only=True)
    except (RuntimeError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} does not hold weights of {model}: {' '.join(str(error).split())[:200]}") from error
    return network, True


def _created(model: str, precision: str, seed: int, *, device: str = "cpu") -> Any:
    """The network with random weights; on the device ``meta`` without any, which takes no time and no memory."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        logging.disable(logging.WARNING)  # open_clip warns that nothing was loaded; that comes later
        try:
            return open_clip.create_model(model, pretrained=None, load_weights=False, precision=precision, device=device)
        finally:
            logging.disable(logging.NOTSET)


def _with_image_tower(model: str, path: str, precision: str, seed: int) -> Any:
    """The network with the image tower of a file, and no text tower.

    No random weights are drawn to be overwritten, which would take a second and as much memory again; but for a tower that
    holds more than its file does.
    """
    state = {name.removeprefix("visual."): tensor for name, tensor in load_file(path).items()}
    network = _created(model, precision, seed, device="meta")
    dtypes = {name: tensor.dtype for name, tensor in network.visual.state_dict().items()}
    copies = {name: tensor.to(dtypes.get(name, tensor.dtype), copy=True) for name, tensor in state.items()}  # the file may go
    network.visual.load_state_dict(copies, assign=True)
    if any(tensor.is_meta for tensor in (*network.visual.parameters(), *network.visual.buffers())):
        network = _created(model, precision, seed)
        network.visual.load_state_dict(state)
    return network


def _hash_tensors(network: torch.nn.Module) -> str:
    state = network.state_dict()
    return sha256_bytes(b"".join(name.encode() + state[name].float().numpy().tobytes() for name in sorted(state)))
