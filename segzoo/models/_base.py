"""What every model shares: its duties towards trainer and user, and the plain convolutional head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.layers.conv import Classifier, ConvBN
from segzoo.layers.fuse_conv_bn import fuse_conv_bn_
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.types import DatasetInfo, Logits

MIN_INPUT = 32  # pixels a side: what a backbone of stride 32 turns into one


class SegModel(nn.Module, ABC):
    """A segmentation model: a backbone, and a head that is everything else.

    Args:
        backbone: the backbone, dilated by the model as it needs.
        num_classes: classes to score, K.
        align_corners: how ``Logits.main`` grows to the size of the image.
        aux: training-only heads, each with its factor in the loss, where the main logits have 1.

    Attributes:
        aux: the training-only heads; their parameters are named ``aux.0...``.
        aux_weights: their factors in the loss.
        loss_resolution: where its paper takes the loss: logits grown to the label, or labels shrunk to the logits.
        info: the dataset info the model was trained with; ``predict`` takes mean and std from it.
    """

    info: DatasetInfo | None = None
    loss_resolution: Literal["label", "logits"] = "label"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        align_corners: bool,
        aux: Sequence[tuple[nn.Module, float]] = (),
    ):
        super().__init__()
        self.backbone = backbone
        backbone.classifier = {}  # half a gigabyte that only a head made before this could want
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.aux = nn.ModuleList(head for head, _ in aux)
        self.aux_weights = tuple(weight for _, weight in aux)

    @abstractmethod
    def forward(self, x: Tensor) -> Logits:
        """Class scores of normalized images; begins with ``check_input``.

        Shapes:
            (N, 3, H, W) float -> main (N, K, h, w) float32 at the model's own stride, aux logits in training, none in eval

        Raises:
            ValueError: as ``check_input``; in training also when a map of the backbone would be one pixel.
        """

    def fuse_for_inference_(self) -> int:
        """Makes the network cheaper to run and unfit to train, in place; it scores as before, up to rounding.

        Norms are merged into their convolutions; a model that can do more overrides this.

        Returns:
            How many norms were merged.

        Raises:
            ValueError: the network is in training mode.
        """
        self.aux_weights = ()
        return fuse_conv_bn_(self)

    def set_channel_widths_(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Takes tensors of other widths in place of its own, as ``segzoo.layers.channel_widths.narrow_`` does."""
        return set_channel_widths_(self, state)

    def external_names(self, layout: str) -> Mapping[str, str]:
        """What another project calls this network's layers, ours -> theirs; empty if it has no such network.

        Args:
            layout: ``torchvision``, ``mmseg`` or ``caffe``; see ``segzoo.weights.conversion``.
        """
        trunk = {f"backbone.{ours}": theirs for ours, theirs in self.backbone.external_names(layout).items()}
        return trunk | self.external_head_names(layout) if trunk and self.external_head_names(layout) else {}

    def external_head_names(self, layout: str) -> dict[str, str]:
        """``names_in`` for all that is not the backbone; here: no other project has this head."""
        return {}

    def convert_tensor(self, layout: str, name: str, tensor: Tensor) -> Tensor:
        """A tensor of another layout in the order of channels that this network has, or back; here: the same order."""
        return tensor

    def aux_logits(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """The scores of the auxiliary heads, one map each, in training; nothing in eval or when the heads were left out."""
        return tuple(head(features) for head, features in zip(self.aux, maps, strict=False)) if self.training else ()

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless ``x`` is a float batch (N, 3, H, W) of 32 pixels or more a side."""
        came = f"{type(self).__name__} was given {tuple(x.shape)} {x.dtype}".replace("torch.", "")
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(f"{came}, wanted (N, 3, H, W): add the batch axis by x[None], put the channels second by x.permute")
        if not x.is_floating_point():
            raise ValueError(f"{came}, wanted normalized floats: subtract the mean and divide by the std, or call predict()")
        if x.shape[2] < MIN_INPUT or x.shape[3] < MIN_INPUT:
            raise ValueError(f"{came}, wanted at least {MIN_INPUT} x {MIN_INPUT} pixels: enlarge or pad the images")

    @torch.no_grad()
    def predict(self, image: np.ndarray) -> np.ndarray:
        """Labels one image, in eval mode, on the device of the model; every module is in its own mode again afterwards.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (H, W) train ids, uint8 up to 255 classes, int32 above.

        Raises:
            ValueError: for any other array, for an image below 32 x 32, and when the model has no dataset info.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"predict() was given {came}, wanted a NumPy array (H, W, 3) uint8 RGB: convert the image")
        if self.info is None:
            raise ValueError(
                "predict() needs the mean and std the model was trained with, and model.info is None: set model.info to the "
                "DatasetInfo of the data, or load a checkpoint by segzoo.load, which sets it"
            )
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            x = torch.from_numpy(image.copy()).to(next(self.parameters()).device).permute(2, 0, 1)[None].float()
            mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.info.mean, self.info.std))
            main = self((x - mean) / std).main
            return upsample_argmax(main, image.shape[:2], self.align_corners)[0].cpu().numpy()
        finally:
            for module, mode in modes:
                module.training = mode


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 score.

    Shapes:
        (N, cin, H, W) -> (N, K, H, W) float32
    """

    def __init__(self, cin: int, num_classes: int, dropout: float):
        super().__init__(ConvBN(cin, cin // 4, 3), nn.Dropout(dropout), Classifier(cin // 4, num_classes))


def caffe_conv_bn_names(names: Mapping[str, str]) -> dict[str, str]:
    """Caffe's names of both parts of each ``ConvBN``, from our name -> the name of Caffe's convolution."""
    convs = {f"{ours}.conv": theirs for ours, theirs in names.items()}
    return convs | {f"{ours}.bn": f"{theirs}/bn" for ours, theirs in names.items()}
