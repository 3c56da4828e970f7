"""The targets on a fixed set of inputs: their seeds, seeds with words put in and pieces taken out, and noise."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from tests.fuzz import properties
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 400


@st.composite
def inputs(draw: st.DrawFn, target: Target) -> bytes:
    """A seed, changed a few times; or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = draw(st.sampled_from(target.seeds))
    words = st.sampled_from(target.words) if target.words else st.nothing()
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        put = draw(words | st.binary(max_size=6))
        data = data[:at] + put + data[at + draw(st.sampled_from((0, length))) :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_taken_or_refused_as_documented(name: str, tmp_path: Path) -> None:
    # Hypothesis would leave a folder of its own beside the tests.
    set_hypothesis_home_dir(tmp_path)
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def run(data: bytes) -> None:
        target.run(data)

    try:
        for seed in target.seeds:
            target.run(seed)
        run()
    finally:
        properties.close()
