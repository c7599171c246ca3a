"""Base class of the models, and a shared convolutional head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.inference.prediction.segmenter import Segmenter
from segzoo.layers.channel_widths import set_channel_widths_, set_input_channels_
from segzoo.layers.conv import Classifier, ConvBN, fuse_conv_bn_
from segzoo.layers.dropout import Dropout
from segzoo.layers.resize import enlarge_to_corners
from segzoo.models._pretrained import upload_pretrained, write_pretrained
from segzoo.pruning.narrowing import narrow_state_dict
from segzoo.types import InputTooSmall, Logits

MIN_INPUT = 32  # smallest height and width in pixels, of which a backbone of stride 32 leaves one pixel


class SegModel(Segmenter, ABC):
    """A segmentation model: a backbone, and a head that is everything else.

    Args:
        backbone: the backbone, dilated as the model needs.
        num_classes: number of classes, K.
        align_corners: how ``Logits.main`` is upsampled to the size of the image.
        aux: training-only heads, each with its loss weight. The main logits have weight 1.

    Attributes:
        aux: the training-only heads. Their parameters are named ``aux.0...``.
        aux_weights: their loss weights.
        corner_multiple: with ``align_corners``, the images are enlarged to sides of this multiple plus 1.
        input_channels: channels of its images.
        input_convs: names of the convolutions that read the image, if it is no RGB image.
        loss_resolution: resolution of the loss in the paper: logits are upsampled to the label, or labels are downsampled to the
            logits.
        unused_in_inference: beginnings of the names of parameters that inference does not use.
        info, precision, origin: as in ``Segmenter``.
    """

    loss_resolution: Literal["label", "logits"] = "label"
    input_channels = 3
    input_convs: tuple[str, ...] = ()

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
        backbone.classifier = {}  # frees half a gigabyte, which only a head built before this point could use
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.corner_multiple = backbone.output_stride if align_corners else None
        self.aux = nn.ModuleList(head for head, _ in aux)
        self.aux_weights = tuple(weight for _, weight in aux)

    def __repr__(self) -> str:
        """Name and size of the model, on one line.

        ``print(model.backbone)`` and the other submodules show their layers.
        """
        size = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        return f"<{type(self).__name__} on {self.backbone.name}, {self.num_classes} classes, {size:.1f} M parameters>"

    @property
    def unused_in_inference(self) -> tuple[str, ...]:
        """Training-only heads, and what a model adds to them."""
        return ("aux.",)

    @abstractmethod
    def forward(self, x: Tensor) -> Logits:
        """Class scores of normalized images.

        Implementations call ``prepare_input`` first.

        Shapes:
            (N, C, H, W) float -> main (N, K, h, w) float32 at the model's own stride, aux logits in training, none in eval

        Raises:
            ValueError: as ``prepare_input``, and in training when a feature map of the backbone would be one pixel.
        """

    def fuse_for_inference_(self) -> int:
        """Make the network faster at inference, in place.

        Its outputs stay the same up to rounding, and it can no longer be trained. Batch norm is fused into the convolutions. Models
        with further optimizations override this method.

        Returns:
            The number of batch norm layers that were fused.

        Raises:
            ValueError: the network is in training mode.
        """
        self.aux_weights, self.origin = (), None
        return fuse_conv_bn_(self)

    def save_pretrained(
        self, folder: str | Path, *, license: str | None = None, precision: Literal["fp32", "fp16"] = "fp32"
    ) -> Path:
        """Write the network to a folder that others can load.

        The folder holds ``model.safetensors``, ``config.json``, a manifest with checksums and a model card, ``README.md``, with the classes
        and, if the weights are those of a scored checkpoint, its scores with their protocol. Paths of this machine are left out, and with them
        the settings of the data, unless its images are generated. It is a checkpoint directory for all tools.

        Args:
            folder: the folder, which is created. Its files of these names are replaced.
            license: license that the card states, such as ``apache-2.0``. None leaves the field to fill in.
            precision: ``fp16`` stores kernels in half the bytes. Such a network is loaded in fp32 like every other.

        Returns:
            The folder.

        Raises:
            ConfigError: the configuration or the classes of the network are unknown, or a kernel exceeds the range of fp16.
        """
        return write_pretrained(self, Path(folder), license, None, precision)

    def push_to_hub(
        self, repo: str, *, license: str | None = None, private: bool | None = None, message: str = "Upload a segzoo model"
    ) -> str:
        """Upload the network to the Hugging Face Hub, as ``save_pretrained`` writes it.

        Log in first, with ``hf auth login`` or the environment variable ``HF_TOKEN``.

        Args:
            repo: the repository, ``<owner>/<name>``, which is created if it does not exist.
            license: as for ``save_pretrained``.
            private: make a new repository private. None takes the default of the account.
            message: message of the commit.

        Returns:
            The address of the repository.

        Raises:
            ConfigError: as ``save_pretrained``, or ``huggingface_hub`` is not installed.
        """
        return upload_pretrained(self, repo, license, private, message)

    def set_channel_widths_(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Load tensors of other widths.

        See ``segzoo.layers.channel_widths.set_channel_widths_``.
        """
        return set_channel_widths_(self, state)

    def set_input_channels_(self, channels: int) -> None:
        """Change the number of channels of the images, in place.

        See ``segzoo.layers.channel_widths.set_input_channels_``.
        """
        if channels != self.input_channels:
            self.input_convs, self.input_channels = set_input_channels_(self, channels), channels

    def narrow_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Narrow tensors of this network at larger widths.

        See ``segzoo.pruning.narrowing.narrow_state_dict``.
        """
        return narrow_state_dict(self, state)

    def external_names(self, layout: str) -> Mapping[str, str]:
        """Another project's names for this network's layers.

        Args:
            layout: ``torchvision``, ``mmseg`` or ``caffe``. See ``segzoo.weights.conversion``.

        Returns:
            Local to external names, empty if the project has no such network.
        """
        backbone = {f"backbone.{local}": external for local, external in self.backbone.external_names(layout).items()}
        return backbone | self.external_head_names(layout) if backbone and self.external_head_names(layout) else {}

    def external_head_names(self, layout: str) -> dict[str, str]:
        """``external_names`` of everything except the backbone.

        By default no other project has this head.
        """
        return {}

    def convert_tensor(self, layout: str, name: str, tensor: Tensor, *, exported: bool = False) -> Tensor:
        """Reorder a tensor's channels from another layout, or to it if ``exported``.

        By default both layouts have the same order.
        """
        return tensor

    def aux_logits(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Logits of the auxiliary heads in training, one feature map each.

        Empty in evaluation, or if the model was built without auxiliary heads.
        """
        return tuple(head(x) for head, x in zip(self.aux, features, strict=False)) if self.training else ()

    def prepare_input(self, x: Tensor) -> Tensor:
        """Check a batch of images, and enlarge it if corners are aligned.

        Resampling with aligned corners assumes that every feature map has a pixel in each corner of the image. Where the releases of PSPNet
        and ICNet accept only sizes at which this holds (8k+1 and 32k+1), other sizes are enlarged here by less than that multiple. Without
        it, the prediction would be stretched by up to a stride towards the lower right. Backbones with strided kernels of even size have no
        such pixels at any size, and stretch it by up to half a stride: VGG-16 with other than ``deeplab`` pools, and encoders such as ConvNeXt.

        Args:
            x: floats (N, C, H, W), C being ``input_channels``, with a height and width of at least 32 pixels.

        Returns:
            The images that the layers see, whose corners are those of ``x``.

        Raises:
            ValueError: ``x`` is something else.
        """
        received = f"{type(self).__name__} received {tuple(x.shape)} {x.dtype}".replace("torch.", "")
        if x.dim() != 4 or x.shape[1] != self.input_channels:
            raise ValueError(
                f"{received}, expected (N, {self.input_channels}, H, W): add a batch dimension with x[None], move channels to dimension 1 with x.permute"
            )
        if not x.is_floating_point():
            raise ValueError(f"{received}, expected normalized floats: subtract the mean and divide by the std, or call predict()")
        if x.shape[2] < MIN_INPUT or x.shape[3] < MIN_INPUT:
            smallest = f"{MIN_INPUT} x {MIN_INPUT} pixels"
            raise InputTooSmall(f"{received}, expected at least {smallest}: enlarge or pad the images", MIN_INPUT)
        return enlarge_to_corners(x, self.corner_multiple)


class FCNHead(nn.Sequential):
    """3x3 ConvBN to a quarter of the channels, dropout, 1x1 classifier.

    Shapes:
        (N, cin, H, W) -> (N, K, H, W) float32
    """

    def __init__(self, cin: int, num_classes: int, dropout: float):
        super().__init__(ConvBN(cin, cin // 4, 3), Dropout(dropout), Classifier(cin // 4, num_classes))


def caffe_conv_bn_names(names: Mapping[str, str]) -> dict[str, str]:
    """Caffe's names for both layers of each ``ConvBN``.

    Args:
        names: local name of each ``ConvBN`` -> name of Caffe's convolution.
    """
    convs = {f"{local}.conv": external for local, external in names.items()}
    return convs | {f"{local}.bn": f"{external}/bn" for local, external in names.items()}
