"""The tables of ``make quality``, from measurements made up here, and the images that its other tasks train on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.base.errors import ConfigError

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not SCRIPTS.is_dir():
    pytest.skip("an installed package has no scripts", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

from quality_data import TASKS  # noqa: E402
from quality_per_minute import lines, page  # noqa: E402


def row(who: str, seed: int, distance: float, goal: float = 2.0, **more: float) -> dict[str, Any]:
    taken = {"goal": goal, "minutes": goal + 0.1, "steps": 300, "batch": 32, "weights": 1000}
    return {"who": who, "seed": seed, **taken, "distance": distance, **more}


def test_a_change_is_compared_with_the_recipe_of_the_same_seeds_and_minutes() -> None:
    found = {
        "features": "pixels",
        "images": 1797,
        "shape": [1, 8, 8],
        "floor": 0.5,
        "floor_untuned": 0.04,
        "floor_images": 300,
        "rows": [
            row("alphabar", 1, 20.0),
            row("alphabar", 0, 10.0, usual=7.0, distance_untuned=0.3, usual_untuned=0.2),
            row("alphabar optim.lr=1e-3", 0, 20.0),
            row("alphabar optim.lr=1e-3", 1, 160.0),
            row("alphabar optim.lr=1e-3", 0, 30.0, goal=6.0),
            row("alphabar net.patch_size=2", 0, 50.0),
            row("alphabar net.patch_size=2 run.batch=16", 0, 25.0),
            row("diffusers", 0, 99.0),
        ],
    }
    text = "\n".join(lines("digits", found))
    assert "| alphabar | 1,000 | 2 (2.1 / 2.1) | 300 / 300 × 32 | 10 / 20 | 7 / – | 0.3 / – | 0.2 / – |" in text
    assert "| diffusers | 1,000 | 2 (2.1) | 300 × 32 | 99 | – | – | – |" in text
    assert "is **0.5**, **0.04** in the features `random-conv`." in text
    # where the features of a random network judge in any case, they judge once
    once = "\n".join(lines("pink", {**found, "features": "random-conv"}))
    assert "| diffusers | 1,000 | 2 (2.1) | 300 × 32 | 99 | – |\n" in once and "is **0.5**." in once
    # the geometric mean of 20/10 and 160/20; after six minutes there is nothing to compare with
    assert "| `optim.lr=1e-3` | 2 (2.1 / 2.1) | 300 / 300 × 32 | 20 / 160 | 4 |" in text
    assert "| `optim.lr=1e-3` | 6 (6.1) | 300 × 32 | 30 | – |" in text
    # what was changed from another recipe is compared with that one
    assert "| `net.patch_size=2` | 2 (2.1) | 300 × 32 | 50 | 5 |" in text
    assert "recipe with `net.patch_size=2`:" in text and "| `run.batch=16` | 2 (2.1) | 300 × 32 | 25 | 0.5 |" in text
    assert "1,797 images of 1×8×8" in text
    assert page("digits") in text


def test_no_image_is_both_trained_on_and_unseen(tmp_path: Path) -> None:
    for name, count in (("digits", 1497), ("pink", 1000)):
        task = TASKS[name](None, tmp_path)
        assert len(task.train) == count
        assert task.train.shape == task.test.shape
        seen = {image.tobytes() for image in np.asarray(task.train.pixels)}
        assert sum(image.tobytes() in seen for image in np.asarray(task.test.pixels)) == 0


def test_a_task_that_needs_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mnist needs the place of its data"):
        TASKS["mnist"](None, tmp_path)
