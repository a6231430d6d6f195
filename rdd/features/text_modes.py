"""Which prompt goes with an image: the text modes."""

from typing import Literal

TextMode = Literal["shared", "official", "none"]
