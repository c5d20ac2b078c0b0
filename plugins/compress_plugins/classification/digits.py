"""scikit-learn's handwritten digits in, two splits of them out."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from compress import CompressError, Data

from .split import ClassDataset, ClassSplit

HELD = 0.2
"""The share of the digits that is for validation."""


class Digits(ClassDataset):
    """1797 real handwritten digits of 8 x 8 pixels that come with scikit-learn: nothing is downloaded.

    Source: Alpaydin, Kaynak, Optical Recognition of Handwritten Digits (UCI Machine Learning Repository 1998), its test
    part. A fifth, chosen by chance but always the same, is for validation; one person's digits may be in both splits.
    """

    name = "digits"
    flip: float = 0.0
    """Probability that a training image is mirrored; a mirrored digit is no digit."""

    def available(self) -> str | None:
        try:
            import sklearn  # noqa: F401
        except ImportError:
            return "digits come with scikit-learn, which is not installed: pip install scikit-learn"
        return None

    def open(self) -> Data:
        missing = self.available()
        if missing:
            raise CompressError(missing)
        from sklearn.datasets import load_digits

        found = load_digits()
        grey = np.round(found.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0 to 16 -> 0 to 255
        images = torch.from_numpy(grey)[:, None].repeat(1, 3, 1, 1)  # -> (1797, 3, 8, 8)
        numbers = np.arange(len(images))
        held = np.random.default_rng(0).permutation(numbers) < HELD * len(images)

        def split(chosen: np.ndarray) -> ClassSplit:
            names = [f"digit-{number:04}" for number in numbers[chosen]]
            return ClassSplit(images[chosen], found.target[chosen].tolist(), names, self.flip, self.shift)

        return Data(
            name="digits",
            classes=tuple("0123456789"),
            train=split(~held),
            val=split(held),
            image_size=(8, 8),
            fingerprint=hashlib.sha256(grey.tobytes() + found.target.astype(np.uint8).tobytes()).hexdigest(),
        )
