"""Post-processing of class probabilities into labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from segzoo.inference.dense_crf import DenseCRF
from segzoo.registry import POSTS, ConfigError, Range

Positive = Annotated[float, Range(0, 1e4, above=True)]
Weight = Annotated[float, Range(0, 1e4)]
MIN_PROBABILITY = 1e-5  # lower bound before taking the logarithm, as in the utilities of pydensecrf


@POSTS.register
def none() -> None:
    """Label each pixel with its most probable class."""


@POSTS.register
def crf(
    *,
    bilateral_weight: Weight = 4.0,
    bilateral_xy: Positive = 49.0,
    bilateral_rgb: Positive = 5.0,
    gaussian_weight: Weight = 3.0,
    gaussian_xy: Positive = 3.0,
    iterations: Annotated[int, Range(0, 1000)] = 10,
    normalization: Literal["row", "symmetric"] = "row",
) -> CRF:
    """Fully connected CRF with the parameters released for DeepLab-LargeFOV.

    Chen et al., ICLR 2015, arXiv:1412.7062, sec. 4, tune w1, sigma_alpha and sigma_beta for each network on 100 validation images, fix
    w2 and sigma_gamma at 3, and run ten mean-field iterations.

    Args:
        bilateral_weight: w1, the weight of pixel pairs close in position and color. 0 disables the term.
        bilateral_xy: sigma_alpha, in pixels.
        bilateral_rgb: sigma_beta, in gray levels of 0 to 255.
        gaussian_weight: w2, the weight of pixel pairs close in position. 0 disables the term.
        gaussian_xy: sigma_gamma, in pixels.
        iterations: number of mean-field iterations.
        normalization: ``row`` (the 2011 code, which the paper used) or ``symmetric`` (its later default).
    """
    return CRF(bilateral_weight, bilateral_xy, bilateral_rgb, gaussian_weight, gaussian_xy, iterations, normalization)


@dataclass(frozen=True)
class CRF:
    """Labels from mean-field inference, with the parameters of ``crf``."""

    bilateral_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    gaussian_weight: float
    gaussian_xy: float
    iterations: int
    normalization: Literal["row", "symmetric"]

    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Label images from class probabilities at their own size.

        Shapes:
            (N, H, W, 3) uint8 RGB, (N, K, H, W) -> (N, H, W) int64

        Raises:
            ConfigError: the images are no 8-bit RGB.
        """
        if image.shape[-1] != 3 or image.dtype != torch.uint8:
            raise ConfigError(
                f"post=crf compares colors of 8-bit RGB, and the images are {tuple(image.shape)} {image.dtype}. Set post=none."
            )
        dense_crf = DenseCRF(
            image.to(probabilities.device),
            bilateral=(self.bilateral_weight, self.bilateral_xy, self.bilateral_rgb),
            gaussian=(self.gaussian_weight, self.gaussian_xy),
            normalization=self.normalization,
        )
        return dense_crf.marginals(-probabilities.clamp(min=MIN_PROBABILITY).log(), self.iterations).argmax(1)

    def describe(self) -> str:
        """Return the name and parameters for the inference protocol."""
        return "crf " + " ".join(f"{name}={value}" for name, value in asdict(self).items())
