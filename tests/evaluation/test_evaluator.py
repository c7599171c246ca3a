"""The evaluator against a plain reference and scikit-learn, and its protocols, loss and files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torch import nn
from toy_training import INFO, Toy, ToyData, ToyLoss

from segzoo.api import create_model
from segzoo.device import Precision, pick_device
from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.report import write_summary
from segzoo.evaluation.score_table import read_score_table
from segzoo.inference.passes.windows import window_starts
from segzoo.inference.postprocess import CRF
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import predict_probabilities
from segzoo.layers.normalize import normalize
from segzoo.registry import ConfigError, Range, settings_of
from segzoo.types import DataError, DatasetInfo, Logits, Sample

CPU = torch.device("cpu")
MEAN, STD = np.array(INFO.mean), np.array(INFO.std)
DATA = ToyData(5, first=100, vary=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    toy = Toy()
    with torch.no_grad():
        for sample in (DATA[i] for i in range(5)):  # non-default batch norm statistics, so that a wrong mode changes the result
            toy(normalize(torch.from_numpy(sample.image)[None], INFO, CPU))
    return toy.train()


def full_size_logits(model, image, size=None):
    """Reference logits: normalized in float64 by NumPy and upsampled at once."""
    x = torch.from_numpy(((image - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)[None]
    size = size or image.shape[:2]
    if size != image.shape[:2]:
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    modes = [m.training for m in model.modules()]
    model.eval()
    with torch.no_grad():
        logits = F.interpolate(model(x).main, image.shape[:2], mode="bilinear", align_corners=False)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return logits


def run(model, data=DATA, loss=None, workers=0, precision="fp32", **protocol):
    settings = {"device": "cpu", "workers": workers, "precision": precision}
    return evaluate(model, data, INFO, loss, protocol=InferenceProtocol(**protocol), **settings)


def expected_confusion(label_of):
    labels, predictions = [], []
    for index in range(len(DATA)):
        sample = DATA[index]
        valid = sample.label != 255
        labels.append(sample.label[valid])
        predictions.append(label_of(sample.image)[valid])
    return confusion_matrix(np.concatenate(labels), np.concatenate(predictions), labels=[0, 1, 2])


def test_a_single_pass_matches_the_reference(model):
    result = run(model)
    expected = expected_confusion(lambda image: full_size_logits(model, image)[0].argmax(0).numpy())
    assert (result.confusion == expected).all() and result.confusion.dtype == np.int64
    iou = np.diag(expected) / (expected.sum(0) + expected.sum(1) - np.diag(expected))
    assert result.scores.miou == pytest.approx(iou.mean()) and result.scores.images == 5 and result.scores.loss is None


def test_scales_and_flip_match_the_reference(model):
    def label_of(image):
        total = 0
        for factor in (0.5, 1.0, 1.75):
            size = (round(image.shape[0] * factor), round(image.shape[1] * factor))
            total = total + full_size_logits(model, image, size).softmax(1)
            total = total + full_size_logits(model, image[:, ::-1].copy(), size).softmax(1).flip(3)
        return total[0].argmax(0).numpy()

    result = run(model, scales=(0.5, 1.0, 1.75), flip=True)
    assert (result.confusion == expected_confusion(label_of)).all()
    assert (result.confusion != run(model).confusion).any()


def test_sliding_windows_match_the_reference(model):
    def label_of(image):
        (height, width), total, count = image.shape[:2], 0, 0
        total, count = torch.zeros(3, height, width), torch.zeros(height, width)
        for top in (*range(0, height - 16, 11), height - 16):
            for left in (*range(0, width - 12, 8), width - 12):
                window = image[top : top + 16, left : left + 12]
                total[:, top : top + 16, left : left + 12] += full_size_logits(model, window).softmax(1)[0]
                count[top : top + 16, left : left + 12] += 1
        return (total / count).argmax(0).numpy()

    assert (run(model, crop=(16, 12)).confusion == expected_confusion(label_of)).all()


def next_size(size, multiple):
    """The next sides of a multiple plus 1, by counting."""
    return tuple(next(side for side in range(s, s + multiple) if side % multiple == 1) for s in size)


def test_padding_to_a_multiple_plus_one_matches_the_reference(model):
    def label_of(image):
        height, width = image.shape[:2]
        padded = np.tile(MEAN, (*next_size((height, width), 8), 1))
        padded[:height, :width] = image
        return full_size_logits(model, padded)[0, :, :height, :width].argmax(0).numpy()

    assert (run(model, pad_multiple=8).confusion == expected_confusion(label_of)).all()


def test_enlarging_to_a_multiple_plus_one_matches_the_reference(model):
    def label_of(image):
        size = next_size(image.shape[:2], 32)
        x = torch.from_numpy(((image - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)[None]
        model.eval()
        with torch.no_grad():
            logits = model(F.interpolate(x, size, mode="bilinear", align_corners=False)).main
        model.train()
        probabilities = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)
        return F.interpolate(probabilities, image.shape[:2], mode="bilinear", align_corners=False)[0].argmax(0).numpy()

    assert (run(model, resize_multiple=32).confusion == expected_confusion(label_of)).all()
    assert (run(model, resize_multiple=32).confusion != run(model).confusion).any()


def test_a_window_larger_than_the_image_pads_with_the_mean(model):
    image = DATA[0].image
    padded = np.tile(MEAN, (50, 60, 1))
    padded[: image.shape[0], : image.shape[1]] = image
    expected = full_size_logits(model, padded).softmax(1)[..., : image.shape[0], : image.shape[1]]
    x = normalize(torch.from_numpy(image)[None], INFO, CPU)
    model.eval()
    with torch.no_grad():
        actual = predict_probabilities(model, x, InferenceProtocol(crop=(50, 60)), Precision("fp32", CPU))
        overlapping = predict_probabilities(
            model, x, InferenceProtocol(crop=(12, 14), stride=(5, 5), scales=(1.0, 1.3), flip=True), Precision("fp32", CPU)
        )
    assert torch.allclose(actual, expected, atol=1e-5)
    assert torch.allclose(overlapping.sum(1), torch.ones(1, *image.shape[:2]), atol=1e-5)  # a mean over windows, scales and flips
    model.train()


def test_order_and_workers_do_not_change_the_scores(model):
    class Reversed(ToyData):
        def __getitem__(self, index):
            return super().__getitem__(len(self) - 1 - index)

    one = run(model, loss=ToyLoss())
    other = run(model, Reversed(5, first=100, vary=True), loss=ToyLoss(), workers=1)
    assert (one.confusion == other.confusion).all() and one.scores.loss == pytest.approx(other.scores.loss, rel=1e-12)


def test_the_loss_is_the_mean_over_all_valid_pixels(model):
    total, valid = 0.0, 0
    for index in range(len(DATA)):
        sample = DATA[index]
        label = torch.from_numpy(sample.label).long()[None]
        total += float(F.cross_entropy(full_size_logits(model, sample.image), label, ignore_index=255, reduction="sum"))
        valid += int((label != 255).sum())
    assert run(model, loss=ToyLoss()).scores.loss == pytest.approx(total / valid, rel=1e-5)
    assert run(model, loss=ToyLoss(), flip=True).scores.loss is None


def test_the_model_is_left_unchanged(model):
    frozen = model.get_submodule("backbone.1")
    frozen.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="enough"):
        evaluate(model, DATA, INFO, None, lambda done: stop_at(done, 2), device="cpu", workers=0)
    run(model)
    assert model.training and model.drop.training and not frozen.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    frozen.train()


def stop_at(done, last):
    if done == last:
        raise RuntimeError("enough")


def test_a_label_outside_the_classes_names_the_image(model):
    class Wrong(ToyData):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            if index == 1:
                sample.label[0, 0] = 7
            return sample

    with pytest.raises(DataError, match=r"toy1: the label holds 7"):
        run(model, Wrong(3))
    two = DatasetInfo("two", ("sky", "road"), INFO.palette[:2])  # a model of fewer classes than the data
    with pytest.raises(DataError, match=r"toy10\d: labels contain 2; expected train ids 0\.\.1"):
        evaluate(Toy(num_classes=2), DATA, two, device="cpu", workers=0)
    with pytest.raises(DataError, match="none of 2 images has a labeled pixel"):
        run(model, Blank(2))


class Blank(ToyData):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return Sample(sample.image, np.full_like(sample.label, 255), sample.name)


def test_more_than_255_classes(tmp_path):
    info = DatasetInfo("many", tuple(map(str, range(300))), ((0, 0, 0),) * 300, ignore=65535)

    class Wide(nn.Module):
        align_corners, num_classes = False, 300

        def forward(self, x):
            main = torch.zeros(1, 300, 6, 8)
            main[:, 270, :3], main[:, 299, 3:] = 1, 1
            return Logits(main)

    class Many(ToyData):
        def __init__(self, count):
            super().__init__(count)
            self.info = info

        def __getitem__(self, index):
            label = np.full((24, 32), 299, np.uint16)
            label[:12], label[0] = 270, 65535
            return Sample(super().__getitem__(index).image, label, "many")

    for flip in (True, False):
        result = evaluate(Wide(), Many(1), info, protocol=InferenceProtocol(flip=flip), device="cpu", workers=0)
        assert result.scores.miou == 1.0 and result.scores.classes_present == 2 and result.confusion.sum() == 23 * 32
    write_summary(tmp_path, result)
    rows, counts = (list(csv.reader((tmp_path / name).open())) for name in ("per_class.csv", "confusion.csv"))
    assert [row[0] for row in rows[1:]] == list(info.classes) and rows[271][1] == "1.0" and rows[272][1] == ""
    assert len(counts) == 301 and {len(row) for row in counts} == {301} and int(counts[300][300]) == 12 * 32
    table = read_score_table(tmp_path)
    assert table.count("\n") > 300 and "298 of 300 classes are absent" in table


def test_bf16_scores_about_the_same(model):
    result = run(model, precision="bf16")
    assert result.scores.miou == pytest.approx(run(model).scores.miou, abs=0.05)


PROTOCOLS = [
    {},
    {"flip": True},
    {"scales": (0.5, 1.0)},
    {"scales": (1.0, 0.5)},
    {"crop": (16, 16)},
    {"crop": (16, 12)},
    {"crop": (16, 16), "stride": (8, 8)},
]


def test_different_protocols_have_different_ids(model):
    results = [run(model, **settings) for settings in PROTOCOLS]
    assert len({result.protocol_id for result in results}) == len(PROTOCOLS)
    default_stride, explicit_stride = InferenceProtocol(crop=(16, 15)), InferenceProtocol(crop=(16, 15), stride=(11, 10))
    assert default_stride.to_dict() == explicit_stride.to_dict()
    for result in results:
        assert json.loads(json.dumps(result.protocol)) == result.protocol


def test_the_protocol_covers_precision_data_list_and_label_map(model):
    class Renamed(ToyData):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.info = replace(INFO, name="other")

    class Remapped(ToyData):
        """The classes road and tree are swapped, as by another label map."""

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample._replace(label=np.array([0, 2, 1, *range(3, 256)], np.uint8)[sample.label])

    same = {"count": 5, "first": 100, "vary": True}
    sets = [ToyData(**same), Renamed(**same), Remapped(**same), ToyData(4, 100, True), ToyData(5, 101, True)]
    results = [run(model, data) for data in sets] + [run(model, precision="bf16")]
    assert len({result.protocol_id for result in results}) == len(results)
    assert run(Toy(), ToyData(**same)).protocol_id == run(model).protocol_id == results[0].protocol_id, (
        "it does not depend on the model"
    )
    assert {"precision": "fp32", "data": "toy", "images": 5}.items() <= results[0].protocol.items()


def test_scores_do_not_depend_on_the_memory_format():
    torch.manual_seed(0)
    pspnet = create_model("pspnet", backbone={"name": "resnet50", "width": 0.25}, num_classes=3)

    class Larger(ToyData):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample(sample.image.repeat(4, 0).repeat(4, 1), sample.label.repeat(4, 0).repeat(4, 1), sample.name)

    losses = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        pspnet.to(memory_format=memory_format)
        strides = [parameter.stride() for parameter in pspnet.parameters()]
        losses.append(run(pspnet, Larger(2), ToyLoss()).scores.loss)
        assert [parameter.stride() for parameter in pspnet.parameters()] == strides
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (4, 4), "stride": (4, 5)}, r"would stay unlabeled. Set at most 'protocol.stride=\[4,4\]'"),
        ({"crop": (4, 4), "pad_multiple": 8}, "for whole images"),
        ({"pad_multiple": 8, "resize_multiple": 32}, "both given"),
        ({"average": "flip_logits"}, "Set protocol.flip=true"),
        ({"label_size": "input"}, r"Set 'protocol.input_hw=\[H,W\]'"),
        ({"label_size": "input", "input_hw": (8, 8), "post": CRF(4.0, 49.0, 5.0, 3.0, 3.0, 10, "row")}, "post=none"),
        ({"scales": ()}, "scales is empty"),
    ],
)
def test_contradicting_settings_are_rejected(model, options, message):
    with pytest.raises(ConfigError, match=message):
        run(model, **options)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 100))
def test_windows_cover_every_pixel_and_stay_inside(size, crop, step):
    starts = window_starts(size, crop, min(step, crop))
    covered = {pixel for start in starts for pixel in range(start, start + crop)}
    assert covered >= set(range(size)) and starts == sorted(set(starts))
    assert starts[-1] + crop == max(size, crop)


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_normalization_matches_the_formula(seed):
    image = np.random.default_rng(seed).integers(0, 256, (2, 5, 7, 3), np.uint8)
    expected = ((image - MEAN) / STD).transpose(0, 3, 1, 2)
    for channels_last in (True, False):
        x = normalize(torch.from_numpy(image), INFO, CPU, channels_last=channels_last)
        assert np.allclose(x.numpy(), expected, atol=1e-5)
        assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_summary_and_tables(model, tmp_path):
    class NoTree(ToyData):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample.label[sample.label == 2] = 255
            return sample

    result = run(model, NoTree(3), loss=ToyLoss())
    summary = write_summary(tmp_path / "eval", result, "abc")
    assert json.loads((tmp_path / "eval/summary.json").read_text()) == summary
    keys = (
        "miou miou_interval macc aacc fwiou per_class classes_present images precision protocol protocol_id checkpoint_sha256 loss "
        "miou_foreground split group_by groups"
    )
    assert set(keys.split()) == summary.keys() and summary["miou_interval"] is None
    absent = {"iou": None, "acc": None, "pixels": 0, "precision": None, "f1": None}
    assert summary["per_class"]["tree"] == absent and summary["classes_present"] == 2
    rows = list(csv.reader((tmp_path / "eval/per_class.csv").open()))
    assert rows[0] == ["class", "iou", "acc", "pixels", "precision", "f1"] and rows[3] == ["tree", "", "", "0", "", ""]
    assert float(rows[1][1]) == result.scores.per_class["sky"]["iou"]
    assert (np.load(tmp_path / "eval/per_image_counts.npy") == result.per_image_counts).all()
    assert tuple(json.loads((tmp_path / "eval/image_names.json").read_text())) == result.names
    counts = list(csv.reader((tmp_path / "eval/confusion.csv").open()))
    assert [[int(cell) for cell in row[1:]] for row in counts[1:]] == result.confusion.tolist()
    table = read_score_table(tmp_path / "eval")
    assert "no confidence interval from 3 images: at least 10 are needed" in table and "without the background" not in table
    write_summary(tmp_path / "more", run(model, ToyData(10)))
    assert "mIoU, 95 % confidence interval: " in read_score_table(tmp_path / "more")
    assert "1 of 3 classes are absent" in table and result.protocol_id in table and f"mIoU {100 * summary['miou']:.2f}" in table


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="device=cpu or device=auto"):
        pick_device("cuda")


def test_every_setting_has_a_type_the_registry_can_check():
    from segzoo.inference.outputs.result_files import plan_results
    from segzoo.inference.predictor import predict_images
    from segzoo.runs.open_run import open_run
    from segzoo.training.components import TrainingSettings

    assert Range(1, 65536) in get_args(settings_of(TrainingSettings)["batch_size"].type)
    names = {each.__name__: set(settings_of(each)) for each in (TrainingSettings, evaluate, predict_images, plan_results, open_run)}
    assert names["open_run"] == {"out", "resume"} and {"steps", "epochs", "clip_grad_norm"} < names["TrainingSettings"]
    assert {"format", "alpha"} < names["plan_results"] and {"device", "precision"} == names["evaluate"] & names["predict_images"]
