"""The check of a data set in the tools that use one."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import noise, save

from segzoo.cli.app import Job, resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.validate import validate
from segzoo.types import DataError

pytestmark = pytest.mark.integration


def run(command: str, *overrides: str):
    from tools import eval as evaluation
    from tools import prune, train

    parsed = parse_overrides(command, overrides)
    assert not parsed.errors, parsed.errors
    config, recorded = resolve_config(parsed.jobs[0])
    tool = {"train": train.train, "prune": prune.prune, "eval": evaluation.evaluate}[command]
    validate(command, config)
    return tool(Job(command, config, recorded, {}))


def test_train_prune_and_eval_name_an_invalid_mask_before_they_begin(tmp_path):
    for split, seed in (("train", 0), ("val", 10)):
        for number, stem in enumerate("abcd", seed):
            save(tmp_path / f"images/{split}/{stem}.png", noise(64, 96, number))
            save(tmp_path / f"labels/{split}/{stem}.png", np.resize(np.arange(2, dtype=np.uint8), (64, 96)))
    fast = ["workers=0", "precision=fp32", "device=cpu"]
    training = [*fast, "steps=1", "batch_size=2", "augment=none", "num_val_images=0"]
    data = ["data=folder", f"data.root={tmp_path}", "data.classes=[x,y]"]
    model = ["model=icnet", "backbone.width=0.125"]
    run("train", *model, *data, *training, f"out={tmp_path / 'run'}")
    assert run("eval", f"ckpt={tmp_path / 'run'}", *fast, f"out={tmp_path / 'eval'}")["images"] == 4
    save(tmp_path / "labels/val/d.png", np.full((64, 96), 7, np.uint8))
    pruning = ["bench_runtimes=[]", "bench_hw=[64,96]", "sensitivity=false", "pruner=l1", *training]
    for number, command in enumerate(
        [
            ("train", *model, *data, *training),
            ("prune", *model, *data, *pruning),
            ("prune", f"ckpt={tmp_path / 'run'}", *pruning),
            ("eval", f"ckpt={tmp_path / 'run'}", *fast),
        ]
    ):
        out = tmp_path / str(number)
        with pytest.raises(DataError, match=r"val/d\.png: holds the values 7"):
            run(*command, f"out={out}")
        assert not list(out.glob("checkpoints/*")) and not (out / "summary.json").exists()
