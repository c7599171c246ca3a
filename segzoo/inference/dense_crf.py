"""Fully connected CRF with mean-field inference on the permutohedral lattice.

The CRF follows Krähenbühl and Koltun, NIPS 2011, arXiv:1210.5644, with the parameters of DeepLab-LargeFOV (Chen et al., ICLR 2015,
arXiv:1412.7062, sec. 4). The lattice follows Adams, Baek and Davis, Eurographics 2010. Everything is written with whole-tensor
operations, so it needs no compiler and runs on any device, and one lattice serves a whole batch of images.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Normalization = Literal["row", "symmetric"]

# Odd 64-bit factors of a linear hash. A vertex is identified by the sum of its coordinates times these factors, modulo 2**64. Among a
# million vertices, the probability that any two collide is below 1e-7. Because the hash is linear, a neighbor's key differs by a constant.
FACTORS = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037, 2870177450012600261)
MAX_LOGIT = 60.0  # whose power is finite for any number of classes
IMAGE_FACTOR = -3335678366873096957  # factor of an image's index in its batch


class Lattice:
    """Approximate Gaussian filter over points in up to five dimensions.

    It computes ``out_i = sum_j exp(-|f_i - f_j|^2 / 2) value_j``. Values are distributed over a lattice of simplices (splat), smoothed
    along each of its d + 1 directions (blur), and interpolated back at the points (slice). The cost is linear in the number of points
    and independent of the filter's width.

    Args:
        features: (B, N, d) float32, in standard deviations of the filter. Images of a batch do not influence each other.

    Raises:
        ValueError: if ``features`` has another shape, more than five dimensions or too many points.
    """

    def __init__(self, features: Tensor):
        if features.dim() != 3 or not 1 <= features.shape[2] <= len(FACTORS):
            raise ValueError(f"expected features (B, N, d) with d from 1 to {len(FACTORS)}, got {tuple(features.shape)}")
        batch, count, dims = features.shape
        if batch * count * (dims + 1) >= 2**31:  # indices are of 32 bits, which halves the memory that the filter reads
            raise ValueError(
                f"{batch} images of {count} pixels are too many for one lattice. Filter fewer or smaller images at once."
            )
        factors = torch.tensor(FACTORS[:dims], device=features.device)
        keys, weights = _simplices(features.flatten(0, 1).t().contiguous(), factors)
        image_index = torch.arange(batch, device=features.device).repeat_interleave(count)
        ordered, order = keys.add_(image_index * IMAGE_FACTOR).flatten().sort()
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        starts = first.nonzero().flatten()
        vertex = first.cumsum(0, dtype=torch.int32).sub_(1)
        vertices = torch.empty_like(vertex).scatter_(0, order, vertex).view(dims + 1, -1)
        self._vertices, self._weights = vertices.t().contiguous(), weights.t().contiguous()  # of each point, (B * N, d + 1)
        self._points, self._starts = (order % (batch * count)).int(), starts.int()  # point indices, grouped by vertex
        self._point_weights = weights.flatten().index_select(0, order).div_(1 + 2.0**-dims)
        vertex_keys = ordered[starts]
        self._blur = [_blur_taps(vertex_keys, step) for step in _direction_steps(dims)]

    def scale_(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """Scale the inputs and outputs of the filter from now on.

        Args:
            inputs, outputs: (B * N,) factors of each point; None for inputs is 1.
        """
        if inputs is not None:
            self._point_weights *= inputs.index_select(0, self._points)
        self._weights *= outputs[:, None]

    def filter(self, values: Tensor) -> Tensor:
        """Filter the values of all points.

        Each point also contributes to its own output.

        Shapes:
            (B * N, K) float32 -> (B * N, K) float32
        """
        grid = F.embedding_bag(self._points, values, self._starts, mode="sum", per_sample_weights=self._point_weights)
        for rows, weights in self._blur:
            grid = F.embedding_bag(rows, grid, mode="sum", per_sample_weights=weights)
        return F.embedding_bag(self._vertices, grid, mode="sum", per_sample_weights=self._weights)


def _simplices(features: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Find the simplex that encloses each point.

    Args:
        features: (d, N), coordinate by coordinate, so that each operation runs over points that are next to each other in memory.
        factors: (d,) int64 of the hash.

    Returns:
        The keys (d + 1, N) int64 of its d + 1 vertices, and the point's barycentric weights (d + 1, N).
    """
    dims = len(features)
    axis = torch.arange(dims, device=features.device)[:, None]
    scaled = features * ((dims + 1) * math.sqrt(2 / 3) / ((axis + 1) * (axis + 2)).sqrt())
    zero = torch.zeros_like(scaled[:1])
    tail = scaled.flip(0).cumsum(0).flip(0)
    elevated = torch.cat([tail, zero]) - torch.cat([zero, (axis + 1) * scaled])  # on the hyperplane of coordinate sum 0
    base = (elevated / (dims + 1) - 0.5).ceil()
    rank = _descending_ranks(elevated - (dims + 1) * base) + base.sum(0).long()
    wrap = (rank < 0).long() - (rank > dims).long()
    rank, base = rank + (dims + 1) * wrap, base.long() + wrap
    offset = elevated / (dims + 1) - base
    offset = torch.empty_like(offset).scatter_(0, rank, offset).flip(0)
    weights = offset - offset.roll(1, 0)
    weights[0] += 1
    padded = torch.cat([factors, factors.new_zeros(1)])[:, None]  # the last coordinate follows from the others
    by_rank = torch.empty_like(rank).scatter_(0, rank, padded.expand_as(rank)).flip(0)
    preceding = by_rank.cumsum(0) - by_rank
    step = torch.arange(dims + 1, device=features.device)[:, None]
    keys = (base * padded).sum(0) * (dims + 1) + step * factors.sum() - (dims + 1) * preceding
    return keys, weights


def _descending_ranks(values: Tensor) -> Tensor:
    """Rank the values of each column in descending order.

    Of equal values, the first leads. Comparing the few rows takes a tenth of the time of sorting the many columns.

    Shapes:
        (d, N) -> (d, N) int64
    """
    rank = torch.zeros_like(values, dtype=torch.int64)
    for row in range(1, len(values)):
        leads = values[:row] >= values[row]
        rank[row] += leads.sum(0)
        rank[:row] += ~leads
    return rank


def _direction_steps(dims: int) -> list[int]:
    """Key differences of neighbors along the d + 1 lattice directions."""
    factors = FACTORS[:dims]
    return [_to_int64((dims + 1) * factor - sum(factors)) for factor in (*factors, 0)]


def _to_int64(number: int) -> int:
    """Wrap an integer modulo 2**64 into the signed range."""
    return (number + 2**63) % 2**64 - 2**63


def _blur_taps(keys: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Rows and weights of the (1/2, 1, 1/2) filter along one direction.

    Args:
        keys: (M,) int64, sorted keys of the vertices.
        step: key difference of neighbors along the direction.

    Returns:
        Rows and weights, (M, 3) int32 and float32. A missing neighbor has weight 0.
    """
    index = torch.searchsorted(keys, neighbors := keys + step).clamp_(max=len(keys) - 1)
    own = (keys[index] == neighbors).nonzero().flatten()  # those that have a neighbor ahead, which has them behind
    ahead = index[own]
    rows = torch.arange(len(keys), dtype=torch.int32, device=keys.device)[:, None].repeat(1, 3)
    weights = torch.zeros(len(keys), 3, device=keys.device)
    weights[:, 0] = 1
    for tap, vertex, neighbor in ((1, own, ahead), (2, ahead, own)):
        rows[vertex, tap] = neighbor.int()
        weights[vertex, tap] = 0.5
    return rows, weights


class DenseCRF:
    """Mean-field inference for a batch of images of one size.

    Energy: ``sum_i u_i(x_i) + sum_{i<j} [x_i != x_j] (w1 exp(-|p_i - p_j|^2 / 2 a^2 - |I_i - I_j|^2 / 2 b^2)
    + w2 exp(-|p_i - p_j|^2 / 2 g^2))`` with positions p in pixels and colors I in 0 to 255.

    Args:
        image: (B, H, W, 3) uint8.
        bilateral: weight w1, position scale a in pixels, color scale b in gray levels. A weight of 0 disables the term.
        gaussian: weight w2 and position scale g in pixels. A weight of 0 disables the term.
        normalization: scaling of the messages by the kernel sums. ``row`` divides by the receiving pixel's sum (the 2011 release);
            ``symmetric`` divides by the square roots of the sender's and the receiver's sums (the later default).
    """

    def __init__(
        self,
        image: Tensor,
        *,
        bilateral: tuple[float, float, float] = (4.0, 49.0, 5.0),
        gaussian: tuple[float, float] = (3.0, 3.0),
        normalization: Normalization = "row",
    ):
        batch, height, width, _ = image.shape
        rows = torch.arange(height, device=image.device).view(1, height, 1, 1).expand(batch, -1, width, 1)
        columns = torch.arange(width, device=image.device).view(1, 1, width, 1).expand(batch, height, -1, 1)
        position = torch.cat([columns, rows], 3).float()
        weight, xy_scale, rgb_scale = bilateral
        self._lattices: list[Lattice] = []
        self._is_bounded = normalization == "row" and bilateral[0] + gaussian[0] <= MAX_LOGIT  # messages are means times these
        if weight:
            self._add(weight, torch.cat([position / xy_scale, image.float() / rgb_scale], 3), normalization)
        weight, xy_scale = gaussian
        if weight:
            self._add(weight, position / xy_scale, normalization)

    def _add(self, weight: float, features: Tensor, normalization: Normalization) -> None:
        """Add a kernel, whose filter returns weighted and normalized messages."""
        lattice = Lattice(features.flatten(1, 2))
        total = lattice.filter(features.new_ones(features[..., 0].numel(), 1)).flatten() + 1e-20
        if normalization == "row":
            lattice.scale_(None, weight / total)
        else:
            lattice.scale_(total.rsqrt(), weight * total.rsqrt())
        self._lattices.append(lattice)

    @torch.no_grad()
    def marginals(self, unary: Tensor, iterations: int = 10) -> Tensor:
        """Run mean-field iterations and return the marginals.

        Args:
            unary: (B, K, H, W) energies, such as negative log-probabilities.
            iterations: number of mean-field iterations, 0 or more. 0 returns the softmax of ``-unary``.

        Returns:
            (B, K, H, W) float32, summing to 1 over the classes.
        """
        batch, classes, height, width = unary.shape
        energy = -unary.float().permute(0, 2, 3, 1).reshape(-1, classes).contiguous()  # for one image, the reshape may be a view
        energy = energy - energy.amax(1, keepdim=True)
        belief = _softmax_(energy.clone())
        for _ in range(iterations):
            logits = energy.clone()
            for lattice in self._lattices:
                logits += lattice.filter(belief)
            if not self._is_bounded:
                logits -= logits.amax(1, keepdim=True)
            belief = _softmax_(logits)
        return belief.view(batch, height, width, classes).permute(0, 3, 1, 2)


def _softmax_(x: Tensor) -> Tensor:
    """Softmax over the last dimension in place, of logits up to MAX_LOGIT.

    For the few classes of a CRF, it takes a sixth of the time of torch's own softmax on a CPU. Logits are clamped at -50, where
    their largest is 0 or more, because filtering many denormal numbers takes more than twice as long.
    """
    x.clamp_(min=-50).exp_()
    return x.div_(x.sum(1, keepdim=True))
