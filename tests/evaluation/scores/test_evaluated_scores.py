"""Optional scores of an evaluation, from its labels and its probabilities."""

from __future__ import annotations

import csv
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_training import INFO, Toy, ToyData

from segzoo.distributed import Distributed
from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.report import write_summary
from segzoo.evaluation.scores._base import merged_results
from segzoo.evaluation.scores.build import ScoreName, build_scores
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.threshold import make_threshold
from segzoo.layers.normalize import normalize
from segzoo.layers.resize import probability_strips, resize
from segzoo.registry import ConfigError

ALL: tuple[ScoreName, ...] = ("boundary_iou", "trimap", "boundary_f", "calibration", "blobs")
DATA = ToyData(5, first=100, vary=True)
METADATA = {"dataset": INFO.to_dict(), "input": "uint8", "hw": None, "precision": "fp32", "align_corners": False}


class Large(ToyData):
    """Images that an exported file takes."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample._replace(image=np.tile(sample.image, (4, 4, 1)), label=np.tile(sample.label, (4, 4)))


class Argmax:
    """The simplest post-processing."""

    def __call__(self, image, probabilities):
        return probabilities.argmax(1)

    def describe(self):
        return "argmax"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return Toy().eval()


def run(model, **protocol):
    scores = build_scores(INFO, scores=ALL, defects=("tree",))
    return evaluate(model, DATA, INFO, extra=scores, protocol=InferenceProtocol(**protocol), device="cpu", workers=0)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "rows"), [((24, 40), 7), ((64, 33), 64), ((5, 6), 1), ((90, 20), 64)])
def test_strips_equal_the_softmax_of_upsampled_logits(size, rows, align_corners):
    logits = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(0))
    strips = list(probability_strips(logits, size, align_corners, rows))
    assert max(strip.shape[1] for strip in strips) <= rows
    torch.testing.assert_close(torch.cat(strips, 1), resize(logits, size, align_corners).softmax(1)[0])


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"crop": (24, 24)}, {"scales": (0.5, 1.0), "average": "logits"}])
def test_optional_scores_leave_the_others_unchanged(model, options):
    with_scores, plain = (
        run(model, **options),
        evaluate(model, DATA, INFO, protocol=InferenceProtocol(**options), device="cpu", workers=0),
    )
    assert with_scores.scores == plain.scores and with_scores.protocol_id == plain.protocol_id and plain.extra == {}
    assert tuple(with_scores.extra) == ALL
    assert with_scores.extra["calibration"].values["acc"] == pytest.approx(plain.scores.aacc)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": True, "average": "logits"},
        {"crop": (16, 16), "scales": (0.5, 1.0)},
        {"threshold": make_threshold(INFO, {"tree": 0.3})},
        {"post": Argmax()},
    ],
    ids=["whole", "flip", "slide", "threshold", "post"],
)
def test_the_network_runs_as_often_as_without_scores(model, options):
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain = evaluate(model, DATA, INFO, protocol=InferenceProtocol(**options), device="cpu", workers=0)
        alone = len(calls)
        assert (run(model, **options).confusion == plain.confusion).all() and len(calls) == 2 * alone >= 2 * len(DATA)
    finally:
        hook.remove()


def test_an_exported_file_runs_once_per_image(model):
    calls = []

    @torch.no_grad()
    def call(batch):
        calls.append(len(batch))
        logits = model(normalize(torch.from_numpy(batch), INFO, torch.device("cpu"))).main
        return [resize(logits, batch.shape[1:3], False).argmax(1).to(torch.uint8).numpy(), logits.numpy()]

    network = ExportedNetwork(call, METADATA | {"output": "both"}, "fp32")
    scores = build_scores(INFO, scores=ALL, defects=("tree",))
    result = evaluate(network, Large(3), INFO, extra=scores, device="cpu", workers=0)
    expected = evaluate(model, Large(3), INFO, extra=build_scores(INFO, scores=ALL, defects=("tree",)), device="cpu", workers=0)
    assert calls == [1] * 3 and result.extra == expected.extra


def test_the_confidence_is_that_of_the_network(model):
    total = pixels = 0
    for sample in (DATA[index] for index in range(5)):
        with torch.no_grad():
            logits = model(normalize(torch.from_numpy(sample.image)[None], INFO, torch.device("cpu"))).main
        upsampled = F.interpolate(logits, sample.label.shape, mode="bilinear", align_corners=False).softmax(1)[0]
        valid = sample.label != 255
        total, pixels = total + float(upsampled.max(0).values.double().numpy()[valid].sum()), pixels + valid.sum()
    assert run(model).extra["calibration"].values["confidence"] == pytest.approx(total / pixels, abs=1e-6)


def test_summary_and_tables_of_optional_scores(model, tmp_path):
    result = run(model)
    summary = write_summary(tmp_path, result)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary and set(ALL) < summary.keys()
    assert summary["blobs"] == result.extra["blobs"].values
    for name in ("boundary_iou", "trimap", "calibration", "labeled_blobs", "operating_curve"):
        rows = list(csv.reader((tmp_path / f"{name}.csv").open()))
        assert len(rows) > 3 and len({len(row) for row in rows}) == 1


def test_a_new_evaluation_removes_the_tables_of_the_former(model, tmp_path):
    from segzoo.runs.output_dir import OUTPUTS

    write_summary(tmp_path, run(model))
    written = {*OUTPUTS["eval"], "summary.json"} - {"report.html"}  # which the tools write after it
    assert {path.name for path in tmp_path.iterdir()} == written


def test_ranks_exchange_their_scores(model):
    class Rank0(Distributed):
        """The first of two ranks, whose partner's scores are known."""

        def gather(self, value):
            return [value, pickle.loads(pickle.dumps(others[value.name]))]

    class Part(ToyData):
        def __init__(self, indices):
            super().__init__(len(indices), first=100, vary=True)
            self.indices = indices

        def __getitem__(self, index):
            return DATA[self.indices[index]]

        def name(self, index):
            return DATA.name(self.indices[index])

    parts: list[Any] = []
    for indices in ((0, 2, 4), (1, 3)):
        scores = build_scores(INFO, scores=ALL, defects=("tree",))
        evaluate(model, Part(indices), INFO, extra=scores, device="cpu", workers=0)
        for score in scores:  # a rank knows the positions in the whole data set
            for kept in ("rows", "counts"):
                table = getattr(score, kept, None)
                if isinstance(table, list):
                    setattr(score, kept, [(indices[index], *rest) for index, *rest in table])
                elif isinstance(table, dict):
                    setattr(score, kept, {indices[index]: counts for index, counts in table.items()})
        parts.append(scores)
    others = {score.name: score for score in parts[1]}
    merged, whole = merged_results(parts[0], Rank0(0, 2)), run(model).extra
    assert merged == whole


def test_an_exported_file_without_logits_has_no_probabilities():
    network = ExportedNetwork(lambda batch: [np.zeros(batch.shape[:3], np.uint8)], METADATA | {"output": "labels"}, "fp32")
    with pytest.raises(ConfigError, match="calibration, blobs read class probabilities.*output=both, or leave them out"):
        run(network)
    scores = build_scores(INFO, scores=("boundary_iou", "blobs"), defects=("tree",), blob_curve=False)
    result = evaluate(network, Large(2), INFO, extra=scores, device="cpu", workers=0)
    assert result.extra["blobs"].values["per_class"]["tree"]["predicted_blobs"] == 0
