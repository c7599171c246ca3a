"""What becomes of class probabilities before they are labels: nothing, or the fully connected CRF."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from torch import Tensor

from segzoo.inference.dense_crf import DenseCRF
from segzoo.registry import POSTS, Range

Positive = Annotated[float, Range(0, None, above=True)]
Weight = Annotated[float, Range(0, None)]
TINY = 1e-5  # the least probability whose logarithm is taken


@POSTS.register
def none() -> None:
    """Labels are the most probable class of each pixel."""


@POSTS.register
def crf(
    *,
    bilateral_weight: Weight = 4.0,
    bilateral_xy: Positive = 49.0,
    bilateral_rgb: Positive = 5.0,
    gaussian_weight: Weight = 3.0,
    gaussian_xy: Positive = 3.0,
    iterations: Annotated[int, Range(0, None)] = 10,
    normalization: Literal["row", "symmetric"] = "row",
) -> CRF:
    """The fully connected CRF on the network's probabilities, with the parameters released for DeepLab-LargeFOV.

    Chen et al., ICLR 2015, arXiv:1412.7062, sec. 4: w1, sigma_alpha and sigma_beta are searched for each network on 100 validation
    images, w2 and sigma_gamma are 3; ten steps of mean field.

    Args:
        bilateral_weight: w1, of pixels that are near and alike; 0 leaves the term out.
        bilateral_xy: sigma_alpha, pixels.
        bilateral_rgb: sigma_beta, gray values of 0 to 255.
        gaussian_weight: w2, of pixels that are near; 0 leaves the term out.
        gaussian_xy: sigma_gamma, pixels.
        iterations: steps of mean field.
        normalization: ``row`` (the code of 2011, which the paper used) or ``symmetric`` (its later default).
    """
    return CRF(bilateral_weight, bilateral_xy, bilateral_rgb, gaussian_weight, gaussian_xy, iterations, normalization)


@dataclass(frozen=True)
class CRF:
    """Labels by mean field; parameters as in ``crf``."""

    bilateral_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    gaussian_weight: float
    gaussian_xy: float
    iterations: int
    normalization: Literal["row", "symmetric"]

    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Labels of images from class probabilities of their size.

        Shapes:
            (N, H, W, 3) uint8 RGB, (N, K, H, W) -> (N, H, W) int64
        """
        field = DenseCRF(
            image.to(probabilities.device),
            bilateral=(self.bilateral_weight, self.bilateral_xy, self.bilateral_rgb),
            gaussian=(self.gaussian_weight, self.gaussian_xy),
            normalization=self.normalization,
        )
        return field.marginals(-probabilities.clamp(min=TINY).log(), self.iterations).argmax(1)

    def describe(self) -> str:
        """Name and parameters, as protocols state them."""
        return "crf " + " ".join(f"{name}={value}" for name, value in asdict(self).items())
