"""Data set whose settings are guessed from its folder."""

from __future__ import annotations

from segzoo.data.guess.section import guess_section
from segzoo.data.splits import SplitOrAll
from segzoo.messages import format_override
from segzoo.registry import DATA, ConfigError
from segzoo.types import Dataset


@DATA.register
def auto(split: SplitOrAll, *, root: str, accept: bool = False) -> Dataset:
    """Data set whose settings are guessed from the files in its folder.

    The tools replace it by the guessed settings before they begin, so that checkpoints hold these, see ``cli.auto_data``.

    Args:
        split: train, val, test or all.
        root: folder of the data set.
        accept: whether the guess may be used. Otherwise it is only shown.

    Raises:
        ConfigError: the guess has not been accepted; shows it.
        DataError: nothing in the folder fits.
    """
    guess = guess_section(root)
    if not accept:
        raise ConfigError(
            f"data=auto guesses these settings:\n\n{guess.yaml()}\nTo use them, add {format_override('data.accept', True)}."
        )
    settings = {key: value for key, value in guess.section.items() if key != "name"}
    return DATA.build(guess.section["name"], split, **settings)
