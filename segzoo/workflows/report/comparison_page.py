"""Page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.config.build import build_split
from segzoo.data.splits import SplitOrAll
from segzoo.device import DeviceName, Precision, PrecisionName, pick_device
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.threshold import with_threshold
from segzoo.messages import printable
from segzoo.registry import ConfigError
from segzoo.reporting.blocks.bars import BarRow, difference_bars, share_bar
from segzoo.reporting.blocks.panels import Example, embed_images, legend
from segzoo.reporting.html import render_template
from segzoo.types import DataError, Dataset, DatasetInfo, PlainDict, PlainMapping
from segzoo.workflows.compare.comparison import NOT_RESOLVED
from segzoo.workflows.compare.evaluations import StoredEvaluation, run_directory
from segzoo.workflows.compare.outside import data_section
from segzoo.workflows.compare.report import SHOWN_PAIRS, difference_texts
from segzoo.workflows.report.page import write_page
from segzoo.workflows.report.provenance import commit, data_facts, environment_facts, machine_facts, read_json
from segzoo.workflows.report.run_page import predictor
from segzoo.workflows.report.stored_predictor import PredictIndexed, file_predictor, stored_predictor

if TYPE_CHECKING:
    from torch import nn

EXAMPLES = 3  # images of a pair whose predictions are shown


def report_comparison(
    folder: Path,
    result: PlainMapping,
    evaluations: Sequence[StoredEvaluation],
    networks: Mapping[str, nn.Module],
    protocol: InferenceProtocol,
    data: PlainMapping | None,
    *,
    report: bool = True,
    preds: dict[str, str] | None = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    split: SplitOrAll | None = None,
) -> None:
    """Write ``report.html`` of a comparison into its output directory.

    Args:
        folder: the output directory.
        result: as ``compare_evaluations`` returns it.
        evaluations: the compared ones.
        networks: networks that were evaluated for the comparison, by the name of their evaluation.
        protocol: how they were evaluated.
        data: the ``data`` section of the comparison, or None.
        report: write the page.
        preds: name -> folder of index PNGs, as in ``score_outside``.
        device, precision: of the networks.
        split: the compared split; None means that of the evaluations.
    """

    def render() -> str:
        pages = _ChangedImages(evaluations, data, split, device)
        if pages.dataset is not None:
            pages.add_networks(networks, pages.dataset.info, protocol, Precision(precision, pick_device(device)))
            pages.add_files(preds or {}, pages.dataset)
        pairs = [_pair(pair, result, pages if number < SHOWN_PAIRS else None) for number, pair in enumerate(result["pairs"])]
        examples = [example for pair in pairs for example in pair["examples"]]
        info = None if pages.dataset is None else pages.dataset.info
        if info is not None:
            embed_images(examples, info)
        return render_template(
            "comparison_report.html",
            title=f"Comparison on {evaluations[0].protocol['data']}",
            result=result,
            verdicts=_verdicts(result["pairs"], "images" if result["groups"] is None else "groups"),
            models=_model_rows(result["models"]),
            differences=_difference_rows([(f"{pair['first']} − {pair['second']}", pair) for pair in result["pairs"]]),
            pairs=pairs,
            unavailable=list(dict.fromkeys(pages.reasons)),
            legend=legend(examples, info) if info is not None and examples else [],
            evaluations=[_evaluation_row(own, {item.name: item for item in evaluations}) for own in _stored_rows(result)],
            provenance=_provenance(folder, result, evaluations[0]),
        )

    write_page(folder, render if report else None)


class _ChangedImages:
    """Predictions of the images that changed most.

    Attributes:
        dataset: the images, None if they cannot be shown.
        names: names of these images.
        predictors: how each evaluation predicts, None if it cannot. Checkpoints are added when they are needed.
        reasons: why something is not shown.
    """

    def __init__(
        self, evaluations: Sequence[StoredEvaluation], data: PlainMapping | None, split: SplitOrAll | None, device: DeviceName
    ):
        self.evaluations = {item.name: item for item in evaluations}
        self.device: DeviceName = device
        self.predictors: dict[str, PredictIndexed | None] = {}
        self.reasons: list[str] = []
        self.names: tuple[str, ...] = ()
        self.dataset = self._open(evaluations, data, split)

    def add_networks(
        self, networks: Mapping[str, nn.Module], info: DatasetInfo, protocol: InferenceProtocol, precision: Precision
    ) -> None:
        """Add networks that are in memory."""
        for name, network in networks.items():
            own = with_threshold(protocol, info, getattr(network, "threshold", None))
            predict = predictor(network, info, own, precision)
            self.predictors[name] = lambda image, index, predict=predict: predict(image)

    def add_files(self, preds: Mapping[str, str], dataset: Dataset) -> None:
        """Add label maps that other code has written."""
        for name, folder in preds.items():
            self.predictors[name] = file_predictor(Path(folder), dataset)

    def _open(self, evaluations: Sequence[StoredEvaluation], data: PlainMapping | None, split: SplitOrAll | None) -> Dataset | None:
        """Build the data set, if its images are those that were scored."""
        reference = next((item for item in evaluations if item.config or item.training), None)
        try:
            scored = split or evaluations[0].summary["split"]
            dataset = build_split(data_section(reference, data, scored), split=scored)
            names = tuple(dataset.name(index) for index in range(len(dataset)))
        except (ConfigError, DataError, OSError) as error:
            self.reasons.append(f"The images cannot be shown: {error}")
            return None
        self.names = names
        if names != evaluations[0].image_names:
            self.reasons.append("The images cannot be shown: those of the data set are no longer the ones that were scored.")
            return None
        return dataset

    def examples(self, pair: PlainMapping, models: Mapping[str, str]) -> list[Example]:
        """Predict images of a pair by both models.

        Args:
            pair: of the result.
            models: name of a model -> name of the evaluation that shows it.
        """
        if self.dataset is None:
            return []
        if self.evaluations[models[pair["first"]]].image_names != self.names:
            self.reasons.append(f"Images of {pair['first']} and {pair['second']} are of another data set and cannot be shown.")
            return []
        sides = {name: self._predictor(models[name]) for name in (pair["first"], pair["second"])}
        known = {name: predict for name, predict in sides.items() if predict is not None}
        if not known:
            return []
        shown = []
        for image in pair["changed_images"][:EXAMPLES]:
            sample = self.dataset[image["index"]]
            caption = f"image mIoU: {pair['first']} {100 * image['first']:.1f} %, {pair['second']} {100 * image['second']:.1f} %"
            predictions = {name: predict(sample.image, image["index"]) for name, predict in known.items()}
            shown.append(Example(printable(sample.name), caption, sample.image, sample.label, predictions))
        return shown

    def _predictor(self, name: str) -> PredictIndexed | None:
        """Find out how an evaluation predicts, None if it cannot."""
        if name not in self.predictors:
            try:
                self.predictors[name] = stored_predictor(self.evaluations[name], self.device)
            except (ConfigError, DataError, OSError) as error:
                self.predictors[name] = None
                self.reasons.append(f"Predictions of {name} cannot be shown: {error}")
        return self.predictors[name]


def _stored_rows(result: PlainMapping) -> list[PlainMapping]:
    return [own | {"model": model["name"]} for model in result["models"] for own in model["evaluations"]]


def _verdicts(pairs: Sequence[PlainMapping], units: str) -> list[str]:
    """State the verdicts, those on unresolved pairs in one sentence."""
    unresolved = [
        f"{pair['first']} and {pair['second']} ({100 * pair['difference']:+z.2f})"
        for pair in pairs
        if pair["interval"] is not None and pair["verdict"] == NOT_RESOLVED
    ]
    sentences = [_sentence(pair, units) for pair in pairs if pair["interval"] is None or pair["verdict"] != NOT_RESOLVED]
    if unresolved:
        sentences.append(f"Not resolved, since the difference in points of mIoU may be chance: {', '.join(unresolved)}.")
    return sentences


def _sentence(pair: PlainMapping, units: str) -> str:
    """State the verdict on a resolved pair, or why there is none."""
    names = f"{pair['first']} and {pair['second']}"
    if pair["interval"] is None:
        return f"{names}: too few {units} for a verdict."
    low, high = sorted(abs(100 * bound) for bound in pair["interval"])
    return f"{names}: {pair['verdict']}, by {100 * abs(pair['difference']):.2f} points of mIoU (95 % interval {low:.2f} to {high:.2f})."


def _model_rows(models: Sequence[PlainMapping]) -> list[BarRow]:
    rows = []
    for model in sorted(models, key=lambda model: -model["miou"]):
        bounds = "{:.2f} to {:.2f}".format(*(100 * bound for bound in model["interval"])) if model["interval"] else "–"
        cells = [f"{100 * model['miou']:.2f}", bounds, str(len(model["evaluations"]))]
        rows.append(BarRow(model["name"], share_bar(model["miou"], model["interval"]), cells))
    return rows


def _difference_rows(entries: Sequence[tuple[str, PlainMapping]]) -> list[BarRow]:
    bars = difference_bars([(entry["difference"], entry["interval"]) for _, entry in entries])
    return [BarRow(name, bar, difference_texts(entry)) for (name, entry), bar in zip(entries, bars, strict=True)]


def _pair(pair: PlainMapping, result: PlainMapping, pages: _ChangedImages | None) -> PlainDict:
    """Collect what the page shows of a pair, the largest differences first."""
    classes = [(name, entry) for name, entry in pair["per_class"].items() if entry["difference"] is not None]
    classes.sort(key=lambda item: (item[1]["verdict"] == NOT_RESOLVED, -abs(item[1]["difference"])))
    changed = [
        (
            image["image"],
            *(f"{100 * value:.1f}" for value in (image["first"], image["second"])),
            f"{100 * (image['first'] - image['second']):+z.1f}",
        )
        for image in pair["changed_images"]
    ]
    models = {model["name"]: model["evaluations"][0]["name"] for model in result["models"]}
    return {
        "title": f"{pair['first']} − {pair['second']}",
        "first": pair["first"],
        "second": pair["second"],
        "classes": _difference_rows(classes),
        "changed": changed,
        "examples": [] if pages is None or not changed else pages.examples(pair, models),
    }


def _evaluation_row(own: PlainMapping, evaluations: Mapping[str, StoredEvaluation]) -> list[object]:
    run = run_directory(evaluations[own["name"]].folder)
    training = {} if run is None else read_json(run / "env.json")
    return [
        own["model"],
        own["name"],
        f"{100 * own['miou']:.2f}",
        own["split"],
        own["protocol_id"],
        own["seed"],
        own["checkpoint_sha256"],
        commit(training) if training else None,
    ]


def _provenance(folder: Path, result: PlainMapping, first: StoredEvaluation) -> list[tuple[str, str]]:
    env = read_json(folder / "env.json")
    bootstrap = f"{result['draws']:,} draws" + (f", groups by {result['group_by']}" if result["group_by"] else "")
    return [*environment_facts(env), *data_facts(first.summary), ("bootstrap", bootstrap), *machine_facts(env)]
