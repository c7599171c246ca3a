"""Predictions on a Ray cluster, one of whose workers is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from toy_training import INFO, Toy

from segzoo.config.checks.prediction import prediction_errors
from segzoo.inference.engines.ray_data import Labeler, claim_folder, filesystem, name_images, predict_with_ray
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.registry import ConfigError
from segzoo.types import DataError

IDENTITY = {"checkpoint_sha256": "abc"}


class Dying(Labeler):
    """Kills its process at the first sight of one image."""

    def _label(self, path, data):
        died = Path(self.out).parent / "died"
        if path.endswith("05.png") and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._label(path, data)


@pytest.fixture
def cluster():
    """A local Ray of two CPUs, or the one that RAY_ADDRESS names."""
    ray = pytest.importorskip("ray", reason='pip install -e ".[ray]"')
    pytest.importorskip("pyarrow", reason='pip install -e ".[ray]"')
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    local = {"address": "local", "num_cpus": 2, "include_dashboard": False, "object_store_memory": 150_000_000}
    start = {} if "RAY_ADDRESS" in os.environ else local
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    ray.init(log_to_driver=False, runtime_env={"env_vars": variables}, **start)
    yield
    ray.shutdown()


@pytest.fixture
def images(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "images" / ("belt" if number % 2 else "") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(path)
    return tmp_path / "images"


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_labels_are_those_of_one_process(cluster, images, tmp_path):
    torch.manual_seed(0)
    model, out, broken = Toy(), tmp_path / "out", images / "broken.png"
    predict_source(model, INFO, tmp_path / "one", images, overlays="none")
    expected = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one/labels").rglob("*.png")}
    broken.write_bytes(b"no image")
    kept = out / "labels/00.png"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of an interrupted prediction")
    arguments = (model, INFO, SINGLE_PASS, f"file://{images}", str(out), IDENTITY)
    with pytest.raises(DataError, match=r"^1 of 13 images could not be labeled:\n.*broken\.png"):
        predict_with_ray(*arguments, Dying, device="cpu")
    assert (tmp_path / "died").exists() and kept.read_bytes() == b"of an interrupted prediction"
    kept.write_bytes(expected[Path("labels/00.png")])
    assert {path.relative_to(out): path.read_bytes() for path in (out / "labels").rglob("*") if path.is_file()} == expected
    broken.unlink()
    assert predict_with_ray(*arguments, device="cpu") == {"images": 12, "done_before": 12, "folder": str(out)}


@pytest.mark.parametrize(
    ("device", "gpus", "actors", "needs"),
    [
        ("auto", 0, 3, {"num_cpus": 0.9}),
        ("auto", 2, 2, {"num_gpus": 1}),
        ("cuda", 2, 3, {"num_gpus": 1}),
        ("cpu", 2, 3, {"num_cpus": 0.9}),
    ],
)
def test_auto_takes_the_gpus_of_the_cluster(images, tmp_path, monkeypatch, device, gpus, actors, needs):
    asked = {}

    class Images:
        def map_batches(self, labeler, fn_constructor_args, **options):
            asked.update(options)
            return self

        def iter_rows(self):
            return iter(())

    data = SimpleNamespace(read_binary_files=lambda *args, **settings: Images(), ActorPoolStrategy=lambda size: size)
    arrow = SimpleNamespace(PyFileSystem=lambda handler: handler, FSSpecHandler=lambda fs: fs)
    ray = SimpleNamespace(init=lambda **settings: None, cluster_resources=lambda: {"GPU": float(gpus)} if gpus else {}, data=data)
    for name, module in {"ray": ray, "ray.data": data, "pyarrow": SimpleNamespace(fs=arrow), "pyarrow.fs": arrow}.items():
        monkeypatch.setitem(sys.modules, name, module)
    predict_with_ray(Toy(), INFO, SINGLE_PASS, str(images), str(tmp_path / "out"), IDENTITY, actors=3, device=device)
    assert asked == {"compute": actors, "batch_size": 1} | needs


def test_a_folder_takes_labels_of_one_network_only(tmp_path):
    claim_folder(str(tmp_path / "out"), IDENTITY)
    claim_folder(f"file://{tmp_path}/out", IDENTITY)
    with pytest.raises(ConfigError, match=r"labels of other settings \(checkpoint_sha256\)"):
        claim_folder(str(tmp_path / "out"), {"checkpoint_sha256": "other"})


def test_settings_that_ray_cannot_follow_are_rejected(monkeypatch):
    config = {"engine": "ray", "source": "s3://bucket/images", "out": "s3://bucket/labels", "runtime": {"name": "eager"}}
    assert prediction_errors(config) == []
    errors = prediction_errors(
        config | {"out": None, "confidence": "max", "fail_if": {"road": "2%"}, "runtime": {"name": "openvino"}}
    )
    assert [word in error for word, error in zip(("confidence", "fail_if", "runtime", "out"), errors, strict=True)] == [True] * 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "instead of torchrun" in prediction_errors(config)[0]


def test_results_within_the_source_are_no_images(tmp_path):
    for name in ("a.png", "b/c.png", "pred/labels/a.png", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    fs, root = filesystem(str(tmp_path))
    assert [*name_images(fs, root, (".png",), f"{root}/pred/labels").values()] == ["a", "b/c"]
    assert len(name_images(fs, root, (".png",))) == 3
