"""Prompts to CLIP's tokens, cut at its context; made where images are decoded, so that the encoder only encodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class PromptTokenizer:
    """open_clip's tokenizer of a model; picklable, and loaded at its first use.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._tokenizer: Any = None

    def __getstate__(self) -> str:
        return self._model

    def __setstate__(self, model: str) -> None:
        self._model, self._tokenizer = model, None

    def __call__(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of prompts.

        Args:
            prompts: N of them.

        Returns:
            Tokens ``(N, L)`` int32, L being CLIP's context (77), and ``(N,)`` bool: whether the prompt was longer and was cut.
        """
        if self._tokenizer is None:
            import open_clip  # and with it torch, which takes seconds

            self._tokenizer = open_clip.get_tokenizer(self._model)
        length = self._tokenizer.context_length
        if not prompts:
            return np.empty((0, length), dtype=np.int32), np.empty(0, dtype=bool)
        padding = self._tokenizer([""])[0, -1].item()
        one_more = self._tokenizer(list(prompts), context_length=length + 1).numpy().astype(np.int32)
        tokens, cut = one_more[:, :length].copy(), one_more[:, length] != padding
        if cut.any():  # its end is marked within the context
            tokens[cut] = self._tokenizer([prompts[number] for number in np.flatnonzero(cut).tolist()]).numpy()
        return tokens, cut
