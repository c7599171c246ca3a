"""The fully connected CRF: mean field over all pairs of pixels, its kernels filtered on the permutohedral lattice.

Krähenbühl and Koltun, NIPS 2011, arXiv:1210.5644, with the parameters of DeepLab-LargeFOV (Chen et al., ICLR 2015,
arXiv:1412.7062, sec. 4); the lattice is Adams, Baek and Davis, Eurographics 2010. Written with whole-tensor operations: no
compiler, any device, and a batch of images is one lattice.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Normalization = Literal["row", "symmetric"]

# Odd 64-bit numbers. A vertex is known by the sum of its coordinates times these, modulo 2**64; of a million vertices two share a
# sum with a probability below 1e-7. The sum is linear, so a neighbor's differs by a constant.
FACTORS = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037, 2870177450012600261)
IMAGE_CHANNELS = -3335678366873096957  # the factor of an image's number in its batch


class Lattice:
    """A Gaussian filter ``out_i = sum_j exp(-|f_i - f_j|^2 / 2) value_j`` over points in up to five dimensions, approximately.

    The points' features are spread over a lattice of simplices (splat), smoothed there along each of its d + 1 directions (blur)
    and read back (slice): linear in the points, and constant in the width of the filter.

    Args:
        features: (B, N, d) float32, in standard deviations of the filter. Points of different images never meet.

    Raises:
        ValueError: other shapes, or more than five dimensions.
    """

    def __init__(self, features: Tensor):
        if features.dim() != 3 or not 1 <= features.shape[2] <= len(FACTORS):
            raise ValueError(f"wanted features (B, N, d) with d from 1 to {len(FACTORS)}, got {tuple(features.shape)}")
        batch, count, dims = features.shape
        factors = torch.tensor(FACTORS[:dims], device=features.device)
        sums, self._shares = _simplices(features.flatten(0, 1), factors)
        picture = torch.arange(batch, device=features.device).repeat_interleave(count)
        ordered, order = (sums + (picture * IMAGE_CHANNELS)[:, None]).flatten().sort()
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        number = first.cumsum(0) - 1
        self._vertices = torch.empty_like(order).scatter_(0, order, number).view(-1, dims + 1)  # of each point
        self._starts = first.nonzero().flatten()
        self._points = order // (dims + 1)  # by vertex
        self._point_shares = self._shares.flatten()[order]
        self._blur = [_neighbours(ordered[self._starts], step) for step in _directions(dims)]
        self._gain = 1 / (1 + 2.0**-dims)

    def filter(self, values: Tensor) -> Tensor:
        """Filters (B * N, K) float32 to the same shape. A point is its own neighbor."""
        grid = F.embedding_bag(self._points, values, self._starts, mode="sum", per_sample_weights=self._point_shares)
        for rows, weights in self._blur:
            grid = F.embedding_bag(rows, grid, mode="sum", per_sample_weights=weights)
        return self._gain * F.embedding_bag(self._vertices, grid, mode="sum", per_sample_weights=self._shares)


def _simplices(features: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The d + 1 vertices around each point, as sums (N, d + 1) int64, and the point's barycentric share of each (N, d + 1)."""
    dims = features.shape[1]
    axis = torch.arange(dims, device=features.device)
    scaled = features * ((dims + 1) * math.sqrt(2 / 3) / ((axis + 1) * (axis + 2)).sqrt())
    nothing = scaled.new_zeros(len(scaled), 1)
    tail = scaled.flip(1).cumsum(1).flip(1)
    raised = torch.cat([tail, nothing], 1) - torch.cat([nothing, (axis + 1) * scaled], 1)  # in the plane of sum 0
    base = (raised / (dims + 1) - 0.5).ceil()
    excess = base.sum(1, keepdim=True).long()
    rank = (raised - (dims + 1) * base).argsort(dim=1, descending=True, stable=True).argsort(1) + excess
    wrap = (rank < 0).long() - (rank > dims).long()
    rank, base = rank + (dims + 1) * wrap, base.long() + wrap
    share = raised / (dims + 1) - base
    share = torch.empty_like(share).scatter_(1, rank, share).flip(1)
    shares = share - share.roll(1, 1)
    shares[:, 0] += 1
    wide = torch.cat([factors, factors.new_zeros(1)])  # the last coordinate follows from the others
    carried = torch.empty_like(rank).scatter_(1, rank, wide.expand_as(rank)).flip(1)
    carried = carried.cumsum(1) - carried
    step = torch.arange(dims + 1, device=features.device)
    sums = (base * wide).sum(1, keepdim=True) * (dims + 1) + step * factors.sum() - (dims + 1) * carried
    return sums, shares


def _directions(dims: int) -> list[int]:
    """What a vertex's sum changes by along each of the d + 1 directions of the lattice."""
    factors = FACTORS[:dims]
    return [_wrapped((dims + 1) * factor - sum(factors)) for factor in (*factors, 0)]


def _wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _neighbours(sums: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Rows and weights (M, 3) that smooth the vertices along one direction by (1/2, 1, 1/2); absent neighbors weigh nothing."""
    here = torch.arange(len(sums), device=sums.device)
    rows, weights = [here], [torch.ones_like(here, dtype=torch.float32)]
    for wanted in (sums + step, sums - step):
        found = torch.searchsorted(sums, wanted).clamp_(max=len(sums) - 1)
        there = sums[found] == wanted
        rows.append(torch.where(there, found, here))
        weights.append(0.5 * there)
    return torch.stack(rows, 1), torch.stack(weights, 1)


class DenseCRF:
    """Mean-field inference for a batch of images of one size.

    Energy: ``sum_i u_i(x_i) + sum_{i<j} [x_i != x_j] (w1 exp(-|p_i - p_j|^2 / 2 a^2 - |I_i - I_j|^2 / 2 b^2)
    + w2 exp(-|p_i - p_j|^2 / 2 g^2))`` with positions p in pixels and colors I in 0 to 255.

    Args:
        image: (B, H, W, 3) uint8.
        bilateral: weight w1, position scale a in pixels, color scale b in gray values; a weight of 0 leaves the term out.
        gaussian: weight w2 and position scale g in pixels.
        normalization: how a pixel's messages are scaled by the sum of its kernel: ``row`` divides by it (the release of 2011),
            ``symmetric`` by the roots of the sender's and the receiver's (the later default).
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
        place = torch.cat([columns, rows], 3).float()
        weight, near, alike = bilateral
        self._terms: list[tuple[float, Lattice, Tensor]] = []
        if weight:
            self._add(weight, torch.cat([place / near, image.float() / alike], 3), normalization)
        weight, near = gaussian
        if weight:
            self._add(weight, place / near, normalization)
        self._normalisation = normalization

    def _add(self, weight: float, features: Tensor, normalization: Normalization) -> None:
        lattice = Lattice(features.flatten(1, 2))
        total = lattice.filter(features.new_ones(features[..., 0].numel(), 1)) + 1e-20
        self._terms.append((weight, lattice, 1 / total if normalization == "row" else total.rsqrt()))

    @torch.no_grad()
    def marginals(self, unary: Tensor, iterations: int = 10) -> Tensor:
        """The marginals after some steps of mean field.

        Args:
            unary: (B, K, H, W) energies, such as negative log-probabilities.
            iterations: steps, 0 or more; 0 gives the softmax of ``-unary``.

        Returns:
            (B, K, H, W) float32 that adds up to 1 over the classes.
        """
        batch, classes, height, width = unary.shape
        energy = -unary.float().permute(0, 2, 3, 1).reshape(-1, classes).contiguous()  # a view of one image is not
        belief = _softmax(energy)
        for _ in range(iterations):
            message = energy.clone()
            for weight, lattice, scale in self._terms:
                sent = belief if self._normalisation == "row" else belief * scale
                message.addcmul_(lattice.filter(sent), scale, value=weight)
            belief = _softmax(message)
        return belief.view(batch, height, width, classes).permute(0, 3, 1, 2)


def _softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension; for the few classes of a CRF a sixth of the time that torch's own takes on a CPU.

    Nothing falls below exp(-50): filtering many denormal numbers takes more than twice the time.
    """
    powers = (x - x.amax(1, keepdim=True)).clamp_(min=-50).exp_()
    return powers.div_(powers.sum(1, keepdim=True))
