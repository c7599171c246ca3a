"""The same small data set in the formats of several annotation tools.

Three images of 24x32 pixels (H, W) show a dent and a scratch that covers part of it. ``a`` and ``b`` are for training, ``c`` for validation.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
from image_files import noise, save
from PIL import Image

SIZE = (24, 32)  # (H, W)
SPLIT = {"a": "train", "b": "train", "c": "val"}
CLASSES = ("background", "dent", "scratch")
DENT, SCRATCH = (3, 3, 20, 15), (10, 8, 25, 12)  # columns and rows (left, top, right, bottom), all inside
RED, BLUE = (250, 50, 50), (50, 50, 250)


def expected() -> np.ndarray:
    label = np.zeros(SIZE, np.uint8)
    label[covered(DENT)] = 1
    label[covered(SCRATCH)] = 2
    return label


def covered(box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros(SIZE, bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def outline(box: tuple[int, int, int, int]) -> list[list[float]]:
    """Corners in the middle of the outermost pixels."""
    left, top, right, bottom = (value + 0.5 for value in box)
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def flat(points: list[list[float]]) -> list[float]:
    return [number for point in points for number in point]


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def images(root: Path, pattern: str) -> None:
    for number, (stem, split) in enumerate(SPLIT.items()):
        save(root / pattern.format(stem=stem, split=split), noise(*SIZE, number))


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths of a flat mask, outside first."""
    values = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    ends = np.flatnonzero(values[1:] != values[:-1])
    return np.diff(np.concatenate([[0], ends])).tolist()


def compress(counts: list[int]) -> str:
    """COCO's text form of run lengths."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr((bits | 32 if more else bits) + 48))
    return "".join(text)


def labelme_record(*shapes: dict, stem: str = "a", **changed) -> dict:
    height, width = SIZE
    fields = {"version": "5.5.0", "flags": {}, "imagePath": f"{stem}.png", "imageData": None}
    return fields | {"shapes": list(shapes), "imageHeight": height, "imageWidth": width} | changed


def labelme_shape(label: str, points: list, kind: str = "polygon", **more) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def labelme(root: Path) -> dict:
    images(root, "pics/{stem}.png")
    for stem in SPLIT:
        shapes = labelme_shape("dent", outline(DENT)), labelme_shape("scratch", [[10.2, 8.9], [25.1, 12.7]], "rectangle")
        write(root / f"json/{stem}.json", labelme_record(*shapes, stem=stem, imagePath=f"..\\pics\\{stem}.png"))
    for split in ("train", "val"):
        write(root / f"{split}.txt", "".join(f"{stem}\n" for stem, own in SPLIT.items() if own == split))
    return {"format": "labelme"}


def coco_file(stems: list[str], annotations: list[dict], **changed) -> dict:
    """COCO file whose category ids begin at 0."""
    height, width = SIZE
    entries = [{"id": number, "file_name": f"{stem}.png", "height": height, "width": width} for number, stem in enumerate(stems)]
    categories = [{"id": 0, "name": "scratch"}, {"id": 7, "name": "dent"}]
    return {"images": entries, "annotations": annotations, "categories": categories} | changed


def coco_annotation(number: int, image: int, category: int, segmentation: object, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0} | more


def coco(root: Path) -> dict:
    images(root, "{split}2017/{stem}.png")
    for split in ("train", "val"):
        stems = [stem for stem, own in SPLIT.items() if own == split]
        annotations = []
        for number in range(len(stems)):
            counts = runs(covered(SCRATCH).T)
            scratch = {"size": list(SIZE), "counts": compress(counts) if number else counts}
            annotations.append(coco_annotation(10 * number, number, 7, [flat(outline(DENT))]))
            annotations.append(coco_annotation(10 * number + 1, number, 0, scratch, iscrowd=1))
        write(root / f"annotations/instances_{split}2017.json", coco_file(stems, annotations))
    return {"format": "coco"}


def cvat(root: Path) -> dict:
    images(root, "images/{stem}.png")
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("scratch", "dent"))
    left, top, right, bottom = SCRATCH
    counts = [0, (right - left + 1) * (bottom - top + 1)]
    entries_xml = ""
    for number, (stem, split) in enumerate(SPLIT.items()):
        points = ";".join(f"{x},{y}" for x, y in outline(DENT))
        mask = f'<mask label="scratch" z_order="1" rle="{counts[0]},{counts[1]}" left="{left}" top="{top}"'
        mask += f' width="{right - left + 1}" height="{bottom - top + 1}"/>'
        dent = f'<polygon label="dent" z_order="0" points="{points}"/>'
        entries_xml += (
            f'<image id="{number}" name="{stem}.png" subset="{split}" width="{SIZE[1]}" height="{SIZE[0]}">{mask}{dent}</image>'
        )
    write(root / "annotations.xml", f"<annotations><meta><job><labels>{labels}</labels></job></meta>{entries_xml}</annotations>")
    return {"format": "cvat"}


def masks(root: Path, colors: dict[int, tuple[int, int, int]], as_palette: bool) -> None:
    images(root, "JPEGImages/{stem}.jpg")
    label = expected()
    for stem, split in SPLIT.items():
        if as_palette:
            mask = Image.fromarray(label, "L").convert("P")
            mask.putdata(label.ravel().tolist())
            mask.putpalette([value for number in range(256) for value in colors.get(number, (0, 0, 0))])
        else:
            mask = np.array([colors[value] for value in range(3)], np.uint8)[label]
        save(root / f"SegmentationClass/{stem}.png", mask)
        with open(write(root / f"ImageSets/Segmentation/{split}.txt", "").parent / f"{split}.txt", "a") as file:
            file.write("".join(f"{own}\n" for own, other in SPLIT.items() if other == split))


def cvat_masks(root: Path) -> dict:
    masks(root, {0: (0, 0, 0), 1: RED, 2: BLUE}, as_palette=False)
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nscratch:50,50,250::\ndent:250,50,50::\nbackground:0,0,0::\n")
    return {"format": "voc"}


def voc(root: Path) -> dict:
    masks(root / "VOCdevkit/VOC2012", {0: (0, 0, 0), 1: (192, 128, 128), 2: (0, 64, 128)}, as_palette=True)
    return {"format": "voc", "names": {"person": "dent", "tvmonitor": "scratch"}, "classes": ["background", "dent", "scratch"]}


def yolo_line(number: int, box: tuple[int, int, int, int]) -> str:
    return f"{number} " + " ".join(f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in outline(box)) + "\n"


def yolo(root: Path) -> dict:
    images(root, "images/{split}/{stem}.png")
    for stem, split in SPLIT.items():
        write(root / f"labels/{split}/{stem}.txt", yolo_line(1, DENT) + yolo_line(0, SCRATCH))
    write(root / "data.yaml", "path: somewhere/else\ntrain: ../images/train\nval: images/val\nnames: {0: scratch, 1: dent}\n")
    return {"format": "yolo"}


def yolo_masks(root: Path) -> dict:
    images(root, "images/{split}/{stem}.png")
    for stem, split in SPLIT.items():
        save(root / f"masks/{split}/{stem}.png", np.array([2, 0, 1], np.uint8)[expected()])
    write(root / "data.yaml", "train: images/train\nval: images/val\nmasks_dir: masks\nnames: [dent, scratch, background]\n")
    return {"format": "yolo"}


def bitmap(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def supervisely(root: Path) -> dict:
    images(root, "{split}/img/{stem}.png")
    write(root / "meta.json", {"classes": [{"title": "scratch"}, {"title": "dent"}], "tags": []})
    left, top, right, bottom = SCRATCH
    for stem, split in SPLIT.items():
        data = bitmap(np.ones((bottom - top + 1, right - left + 1), bool))
        polygon = {"exterior": [[int(x), int(y)] for x, y in outline(DENT)], "interior": []}
        objects = [
            {"id": 1, "classTitle": "dent", "geometryType": "polygon", "points": polygon},
            {"id": 2, "classTitle": "scratch", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}},
        ]
        size = {"height": SIZE[0], "width": SIZE[1]}
        write(root / f"{split}/ann/{stem}.png.json", {"size": size, "tags": [], "objects": objects})
    return {"format": "supervisely"}


def datumaro(root: Path) -> dict:
    images(root, "images/{split}/{stem}.png")
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("scratch", "dent")]
    for split in ("train", "val"):
        items = []
        for stem in [stem for stem, own in SPLIT.items() if own == split]:
            rle = {"size": list(SIZE), "counts": compress(runs(covered(SCRATCH).T))}
            common = {"attributes": {}, "group": 0, "z_order": 0}
            annotations = [
                {"id": 1, "type": "polygon", "label_id": 1, "points": flat(outline(DENT))} | common,
                {"id": 2, "type": "mask", "label_id": 0, "rle": rle} | common,
            ]
            items.append({"id": stem, "annotations": annotations, "image": {"path": f"{stem}.png", "size": list(SIZE)}})
        content = {"info": {}, "categories": {"label": {"labels": labels, "attributes": []}}, "items": items}
        write(root / f"annotations/{split}.json", content)
    return {"format": "datumaro"}


FORMATS = {
    "labelme": labelme,
    "coco": coco,
    "cvat": cvat,
    "cvat masks": cvat_masks,
    "voc": voc,
    "yolo": yolo,
    "yolo masks": yolo_masks,
    "supervisely": supervisely,
    "datumaro": datumaro,
}
