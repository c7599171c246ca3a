"""A toy model, loss and data set for training tests."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from segzoo.checkpoints.store import latest_valid
from segzoo.data.balance.class_counts import count_classes
from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.registry import LOSSES, SAMPLERS
from segzoo.runs.run_dir import RunDir
from segzoo.training import loop
from segzoo.training.components import TrainingComponents, TrainingSettings
from segzoo.types import DatasetInfo, Logits, Sample

INFO = DatasetInfo("toy", ("sky", "road", "tree"), ((70, 130, 180), (128, 64, 128), (34, 139, 34)))


class Toy(nn.Module):
    """Two convolutions at stride 2, with batch norm and an auxiliary head."""

    align_corners = False
    aux_weights = (0.4,)

    def __init__(self, num_classes: int = 3, norm: bool = True, drop: float = 0.1):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU())
        self.drop = nn.Dropout(drop)
        self.head = nn.Conv2d(8, num_classes, 3, padding=1)
        self.aux = nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        features = self.backbone(x)
        main = self.head(self.drop(features)).float()
        return Logits(main, (self.aux(features).float(),) if self.training else ())


class ToyLoss:
    """Cross-entropy at label resolution, divided by the given weight."""

    def __init__(self, aux_weights=(0.4,)):
        self.head_weights = (1.0, *aux_weights)

    @property
    def parts(self):
        return ((1.0, self),)

    def weight(self, label, logits):
        return (label != 255).sum().float().repeat(1 + len(logits.aux))

    def terms(self, logits, label, weight=None):
        weight = self.weight(label, logits) if weight is None else weight
        sums = []
        for head in (logits.main, *logits.aux):
            upsampled = F.interpolate(head, label.shape[-2:], mode="bilinear", align_corners=False)
            sums.append(F.cross_entropy(upsampled, label.long(), ignore_index=255, reduction="sum"))
        return torch.stack(sums) / weight[: len(sums)].clamp(min=1)

    def total(self, terms):
        return (terms * terms.new_tensor(self.head_weights[: len(terms)])).sum()

    def __call__(self, logits, label, weight=None):
        return self.total(self.terms(logits, label, weight))


class ToyData:
    """Images of three colored bands with noise.

    Half of every third label is ignored. With ``vary`` the images differ in size.
    """

    def __init__(self, count: int = 10, first: int = 0, vary: bool = False):
        self.info, self.count, self.first, self.vary = INFO, count, first, vary

    def scan(self):
        """Do nothing, as there are no files to find."""

    def __len__(self):
        return self.count

    def image(self, index):
        return self[index].image

    def name(self, index):
        return f"toy{self.first + index}"

    def __getitem__(self, index):
        rng = np.random.default_rng(self.first + index)
        height, width = (24 + 3 * (index % 3), 40 - index % 4) if self.vary else (24, 32)
        label = np.sort(rng.integers(0, 3, height)).astype(np.uint8)[:, None].repeat(width, 1)
        image = np.clip(np.array(INFO.palette)[label] + rng.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)
        if index % 3 == 0:
            label[: height // 2] = 255
        return Sample(image, label, self.name(index))


class SignalingData(ToyData):
    """Toy images that signal this process at the n-th read.

    Reads are counted from 1.
    """

    def __init__(self, number: int, when: int, **options):
        super().__init__(**options)
        self.number, self.when, self.reads = number, when, 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.when:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


def hflip(sample: Sample, seed: int) -> Sample:
    """Flip half of the samples horizontally."""
    if np.random.default_rng(seed).random() < 0.5:
        return sample
    return Sample(sample.image[:, ::-1].copy(), sample.label[:, ::-1].copy(), sample.name)


def make_components(model: nn.Module | None = None, train_set=None, val_set=None, loss=None, augment=hflip) -> TrainingComponents:
    """Build the components of a toy training, with initial weights seeded."""
    torch.manual_seed(7)
    return TrainingComponents(
        model=model or Toy(),
        train_set=train_set or ToyData(10),
        val_set=val_set or ToyData(3, first=100, vary=True),
        augment=augment,
        loss=loss or ToyLoss(),
        make_optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
        make_schedule=lambda total: lambda step: (1 - step / total) ** 0.9,
        info=INFO,
        config={"model": {"name": "toy"}, "data": {"label_map": {0: 255}}, "optim": {"lr": 0.05}},
    )


def balance(components: TrainingComponents, sampler: str = "rare_class", **options: Any) -> TrainingComponents:
    """Give a toy training a sum of losses and a sampler."""
    weights = {"cross_entropy": 1.0, "dice": 1.0, "lovasz": 0.5}
    components.loss = LOSSES.build("weighted_sum", (0.4,), False, weights=weights)
    components.sampler = SAMPLERS.build(sampler, lambda: count_classes(components.train_set), **options)
    return components


def train(components: TrainingComponents, run: RunDir, dist: Distributed = SINGLE_PROCESS, **settings: Any) -> dict[str, Any]:
    """Call the training loop with settings given as keywords."""
    return loop.train(components, run, TrainingSettings(**settings), dist)


def make_run_dir(path: Path) -> RunDir:
    """Open a run directory that resumes from its latest valid checkpoint."""
    path.mkdir(parents=True, exist_ok=True)
    return RunDir(path, latest_valid(path)[0])


def read_rows(directory: Path, *splits: str) -> list[dict[str, Any]]:
    """Read rows of ``metrics.jsonl``.

    Minutes are left out, as they differ from run to run.
    """
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "minutes"} for row in rows if row["split"] in splits]


def weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


SETTINGS: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "eval_every": 4,
    "save_every": 3,
    "log_every": 5,
    "num_val_images": 0,
    "device": "cpu",
    "precision": "fp32",
    "max_nonfinite_steps": 0,
}


def settings(**changed: Any) -> dict[str, Any]:
    """``SETTINGS`` with changes, reading images in this process."""
    return SETTINGS | {"workers": 0} | changed


def train_in_child(directory: Path, workers: int, steps: int) -> None:
    """Train in a new session and write the hash of the weights.

    Runs in a child process.
    """
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # data workers start as in an ordinary script
    torch.set_num_threads(1)
    components = make_components()
    train(components, make_run_dir(directory), **settings(workers=workers, steps=steps))
    (directory / "hash").write_text(weights_hash(components.model))
