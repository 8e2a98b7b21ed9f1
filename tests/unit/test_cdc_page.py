"""`docs/cdc-or-polling.md` is what its measurements say, and nothing is made of half of them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.cdc import page


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.DATA.read_text())
    return found


def test_the_page_is_made_of_the_measurements_beside_it(document: dict[str, Any]) -> None:
    assert page.PAGE.read_text() == page.render(document), "python -m benchmarks.cdc.page FILE"
    assert page.PICTURE.read_text() == page.picture(document)
    assert page.Measured.of(document).repeats >= 5


def test_other_measurements_make_another_page(document: dict[str, Any]) -> None:
    other = copy.deepcopy(document)
    contest = next(each for each in other["contests"] if each["name"] == "cdc-latency")
    for sample in contest["contenders"][0]["samples"]:
        sample["values"]["p50_ms_at_10"] *= 7
    assert page.render(other) != page.render(document)
    assert page.picture(other) != page.picture(document)


@pytest.mark.parametrize(
    "wrong", [{"not_run": "no Java"}, {"absent": {"cdc": "why"}}, {"invalid": {"cdc": "why"}}]
)
def test_no_page_of_what_was_not_measured_as_a_whole(
    document: dict[str, Any], wrong: dict[str, Any]
) -> None:
    other = copy.deepcopy(document)
    other["contests"][0] |= wrong
    with pytest.raises(ValueError, match="not measured as a whole"):
        page.render(other)
