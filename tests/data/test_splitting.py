"""Division of images into sides: methods, groups and shared names."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, StratifiedKFold

from segzoo.data.splitting.assignment import assign_by_hash, hash_fraction
from segzoo.data.splitting.divide import divide, size_notes
from segzoo.data.splitting.grouping import group_names, join_groups
from segzoo.data.splitting.patterns import group_pattern_error
from segzoo.data.splitting.side_report import Side, absent_class_notes, shared_name_note, side_rows
from segzoo.types import DataError

METHODS = st.sampled_from(["stratified", "random", "hash"])
FRACTIONS = st.lists(st.integers(1, 9), min_size=2, max_size=5).map(
    lambda parts: {f"side{index}": part / sum(parts) for index, part in enumerate(parts)}
)
FEW = settings(max_examples=60, deadline=None)


@st.composite
def image_sets(draw, max_images: int = 60):
    """Stems, groups and class counts of images."""
    count = draw(st.integers(2, max_images))
    groups = draw(st.lists(st.integers(0, draw(st.integers(1, count))), min_size=count, max_size=count))
    classes = draw(st.integers(1, 5))
    has_class = np.random.default_rng(draw(st.integers(0, 99))).random((count, classes)) < draw(st.sampled_from([0.0, 0.2, 0.9]))
    return [f"im{index}" for index in range(count)], [f"g{group}" for group in groups], has_class * np.int64(7)


def try_divide(*args):
    try:
        return divide(*args)
    except DataError:
        assume(False)
        raise


@given(image_sets(), FRACTIONS, METHODS, st.integers(0, 5))
@FEW
def test_every_image_is_on_one_side_and_no_group_on_two(images, fractions, method, seed):
    stems, groups, counts = images
    sides = try_divide(stems, groups, counts, fractions, method, seed)
    assert list(sides) == list(fractions) and all(side.stems for side in sides.values())
    assert sorted(stem for side in sides.values() for stem in side.stems) == sorted(stems)
    assert sum(len(set(side.groups)) for side in sides.values()) == len(set(groups))
    for side in sides.values():
        assert side.stems == [stem for stem in stems if stem in set(side.stems)]
        rows = [stems.index(stem) for stem in side.stems]
        assert side.groups == [groups[row] for row in rows] and (side.class_counts == counts[rows]).all()


@given(image_sets(), FRACTIONS, METHODS, st.integers(0, 5), st.randoms(use_true_random=False))
@FEW
def test_the_order_of_the_images_changes_nothing(images, fractions, method, seed, random):
    stems, groups, counts = images
    first = try_divide(stems, groups, counts, fractions, method, seed)
    order = random.sample(range(len(stems)), len(stems))
    shuffled = divide([stems[i] for i in order], [groups[i] for i in order], counts[order], fractions, method, seed)
    assert {name: set(side.stems) for name, side in shuffled.items()} == {name: set(side.stems) for name, side in first.items()}


@given(st.integers(2, 200), FRACTIONS, st.sampled_from(["stratified", "random"]), st.integers(0, 5))
@FEW
def test_single_images_are_divided_exactly(count, fractions, method, seed):
    stems = [f"im{index}" for index in range(count)]
    sides = try_divide(stems, stems, np.ones((count, 2), np.int64), fractions, method, seed)
    for name, share in fractions.items():
        assert abs(len(sides[name].stems) - share * count) < len(fractions) - 1 + 1e-6


@given(image_sets(), st.integers(2, 5), st.integers(0, 5))
@FEW
def test_folds_of_groups_are_as_balanced_as_those_of_sklearn(images, folds, seed):
    stems, groups, counts = images
    assume(len(set(groups)) >= folds)
    sides = divide(stems, groups, counts, {f"fold{index}": 1 / folds for index in range(folds)}, "random", seed)
    expected = [len(val) for _, val in GroupKFold(folds).split(stems, groups=groups)]
    assert sorted(len(side.stems) for side in sides.values()) == sorted(expected)


@given(st.lists(st.integers(0, 3), min_size=10, max_size=80), st.integers(2, 5), st.integers(0, 5))
@FEW
def test_folds_of_exclusive_classes_are_as_stratified_as_those_of_sklearn(labels, folds, seed):
    stems, counts = [f"im{index}" for index in range(len(labels))], np.eye(4, dtype=np.int64)[labels]
    assume(min(np.bincount(labels)[np.unique(labels)]) >= folds)
    sides = divide(stems, stems, counts, {f"fold{index}": 1 / folds for index in range(folds)}, "stratified", seed)
    class_images = np.array([side.class_images for side in sides.values()])
    splits = StratifiedKFold(folds).split(stems, labels)
    expected = np.array([np.bincount(np.array(labels)[val], minlength=4) for _, val in splits])
    assert (np.sort(class_images, axis=0) == np.sort(expected, axis=0)).all()


def test_stratification_keeps_rare_classes_in_proportion_where_a_random_split_does_not():
    random = np.random.default_rng(0)
    has_class = random.random((200, 8)) < np.array([1, 0.9, 0.5, 0.3, 0.1, 0.05, 0.05, 0.025])
    stems, fractions = [f"im{index}" for index in range(200)], {"val": 0.2, "train": 0.8}
    error = {}
    for method in ("stratified", "random"):
        divided = [divide(stems, stems, has_class.astype(np.int64), fractions, method, seed) for seed in range(5)]
        in_val = np.array([sides["val"].class_images for sides in divided])
        error[method] = np.abs(in_val - 0.2 * has_class.sum(0)).max(0)
    assert (error["stratified"] <= 2).all() and error["stratified"][4:].max() < 1
    assert error["random"][4:].max() > 2


def test_the_seed_changes_the_split():
    stems = [f"im{index}" for index in range(40)]
    args = (stems, stems, np.ones((40, 1), np.int64), {"val": 0.5, "train": 0.5})
    for method in ("stratified", "random"):
        assert (
            divide(*args, method, 1)["val"].stems == divide(*args, method, 1)["val"].stems != divide(*args, method, 2)["val"].stems
        )


@given(
    st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=40),
    st.sets(st.text(min_size=1, max_size=8), max_size=40),
    st.floats(0.01, 0.99),
)
@FEW
def test_hashes_move_no_group_when_others_are_added(names, added, ratio):
    def in_val(stems):
        return {stem for stem, side in zip(stems, assign_by_hash(stems, (ratio, 1 - ratio)), strict=True) if side == 0}

    assert in_val(sorted(names | added)) & names == in_val(sorted(names)) == {name for name in names if hash_fraction(name) < ratio}


def test_hashes_take_the_expected_fractions():
    sides = assign_by_hash([str(number) for number in range(4000)], (0.2, 0.1, 0.7))
    assert np.bincount(sides) / 4000 == pytest.approx([0.2, 0.1, 0.7], abs=0.03)


def test_a_side_without_a_group_is_an_error():
    with pytest.raises(DataError, match=r"fold3 would be empty: 9 images in 2 groups, the largest with 6, .* action.group_by"):
        divide(list("abcdefghi"), ["p"] * 6 + ["q"] * 3, np.ones((9, 1)), {f"fold{n}": 1 / 3 for n in (1, 2, 3)}, "random")


def test_a_group_that_is_too_large_is_named():
    sides = divide(list("abcdefghij"), ["p"] * 8 + ["q"] * 2, np.ones((10, 1)), fractions := {"val": 0.5, "train": 0.5}, "random")
    assert sorted(size_notes(sides, fractions)) == [
        f"{side} has {share} of the images instead of 50.0%: groups are never divided, and the largest, 'p', has 8 of 10 images."
        for side, share in sorted((name, f"{len(side.stems) / 10:.1%}") for name, side in sides.items())
    ]


def test_groups_are_named_by_what_parentheses_match():
    stems = ["a/p7_1", "a/p7_2", "b/p7_1", "KGT-3_x"]
    assert group_names(stems, None) == stems
    assert group_names(stems, r"(p\d+)_|(KGT)") == ["p7", "p7", "p7", "KGT"]
    assert group_names(stems[:3], r"^(\w)/(p\d+)") == ["a/p7", "a/p7", "b/p7"]
    with pytest.raises(
        DataError, match=r"action.group_by='\(p.*' finds no group in 1 of 4 names: KGT-3_x\. .*group of its own"
    ) as caught:
        group_names(stems, r"(p\d+)_", "action.group_by")
    suggested = str(caught.value).partition("such as ")[2].partition(", which")[0]
    assert group_names(stems, typed_value(suggested)) == ["p7", "p7", "p7", "KGT-3_x"]


@pytest.mark.parametrize(
    ("pattern", "expected"), [("(", "is not a regular expression"), ("part", "has no part in parentheses"), ("(?:a)", "no part in")]
)
def test_patterns_without_a_group_are_rejected(pattern, expected):
    error = group_pattern_error("data.group_by", pattern)
    assert error and expected in error
    example = typed_value(error.partition("quotes: ")[2].partition(" groups ")[0])
    assert group_pattern_error("data.group_by", example) is None and len(set(group_names(["part7_1", "part7_2"], example))) == 1


def typed_value(override: str) -> str:
    """Value of an override that a message tells the user to type, as a shell and Hydra read it."""
    (result,) = OverridesParser.create().parse_overrides(shlex.split(override))
    return str(result.value())


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).flatmap(
    lambda names: st.tuples(st.just(names), st.lists(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=4), max_size=6))))  # fmt: skip
@FEW
def test_linked_images_join_their_groups(case):
    names, linked = case
    neighbors = [
        [j for j in range(len(names)) if names[i] == names[j] or any(i in own and j in own for own in linked)]
        for i in range(len(names))
    ]
    for start, joined in enumerate(join_groups(names, linked)):
        reached, border = {start}, [start]
        while border:
            border = [j for i in border for j in neighbors[i] if j not in reached and not reached.add(j)]  # type: ignore[func-returns-value]
        assert joined == min(names[i] for i in reached)


def test_images_groups_and_classes_of_each_side_are_tabulated():
    sides = {
        "train": Side(["a1", "a2", "b1"], ["a", "a", "b"], np.array([[9, 0, 1], [9, 1, 0], [9, 0, 0]])),
        "val": Side(["c"], ["c"], np.array([[5, 0, 0]])),
    }
    header, rows = side_rows(sides, ("road", "car", "ignore"))
    assert header == ["", "train", "val"]
    assert rows == [["images", "3 (75.0%)", "1 (25.0%)"], ["groups", "2", "1"], ["with road", "3", "1"], ["with car", "1", "0"]]
    assert list(absent_class_notes(sides, ("road", "car", "sign"))) == [
        "val has no image with the class 'car', of 1 in all.",
        "val has no image with the class 'sign', of 1 in all.",
    ]
    many = {"val": Side(["c"], ["c"], np.arange(1, 101)[None] * 0)}
    assert len(side_rows(many, [f"c{index}" for index in range(100)])[1]) == 31


SHARED = {
    "folder": (["cam1/a", "cam1/b", "cam2/a"], ["cam1/c", "cam2/d"], r"same folder .*'cam1' \(2 in train, 1 in val\), 'cam2'", "cam1"),
    "prefix": (["part7_1", "part7_2", "part8_1"], ["part7_3", "part9_1"], r"same prefix .*: 'part7' \(2 in train, 1 in val\)\.", "part7"),
    "finest prefix": (["2024-05 a 1", "2024-05 b 1"], ["2024-05 a 2", "2024-06 a 1"], r"'2024-05 a' \(1 in train, 1 in val\)", "2024-05 a"),
    "loose names": (["x", "p_1"], ["p_2"], r"'p' \(1 in train, 1 in val\)", "p"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHARED)
def test_folders_and_prefixes_on_both_sides_are_named_with_a_pattern_that_joins_them(kind):
    train, val, expected, group = SHARED[kind]
    note = shared_name_note({"train": train, "val": val})
    assert note and re.search(expected, note), note
    pattern = typed_value(note.partition("together with ")[2].removesuffix("."))
    assert group_names([*train, *val], pattern).count(group) == sum(stem.startswith(group) for stem in [*train, *val]) >= 2


@pytest.mark.parametrize(("train", "val"), [
    (["IMG_1", "IMG_2"], ["IMG_3"]),  # a prefix of all names says nothing
    (["001", "002"], ["003"]),
    (["cam1/a", "cam1/b"], ["cam2/c"]),
    (["part7_1", "part7_2"], ["part9_1"]),
    (["all/a", "all/b"], ["all/c"]),
])  # fmt: skip
def test_names_that_tell_nothing_are_not_mentioned(train, val):
    assert shared_name_note({"train": train, "val": val}) is None
