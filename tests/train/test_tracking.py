"""What a run tells must hold every step once, whatever died in between."""

from __future__ import annotations

import json
from pathlib import Path

from patentft.location import Location
from patentft.train.tracking import StepsFile, merged_steps


def lines(stage: Location) -> list[dict]:
    return [json.loads(line) for line in merged_steps(stage).splitlines()]


def test_every_step_stands_once_after_a_restart(tmp_path: Path) -> None:
    """A checkpoint after steps 2, 3 and 5; the one of step 5 is lost, and the run goes on after step 3."""
    stage = Location(tmp_path)
    first = StepsFile(stage, 0)
    for step in range(1, 6):
        first.log(step, {"loss": 1.0 / step})
        if step in (2, 3, 5):
            first.commit()
    second = StepsFile(stage, 3)
    for step in (4, 5, 6):
        second.log(step, {"loss": -1.0})
    second.commit()
    assert [line["step"] for line in lines(stage)] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines(stage)] == [1.0, 0.5, 1 / 3, -1.0, -1.0, -1.0]


def test_a_run_that_begins_anew_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    stage = Location(tmp_path)
    old = StepsFile(stage, 0)
    old.log(1, {"loss": 1.0})
    old.log(2, {"loss": 1.0})
    old.commit()
    new = StepsFile(stage, 0)
    new.log(1, {"loss": 2.0})
    new.commit()
    assert lines(stage) == [{"step": 1, "loss": 2.0}]
