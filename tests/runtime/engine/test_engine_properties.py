from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from tests.runtime.engine.world import World

@pytest.mark.parametrize("mode", ["rewind", "hold", "arrival"])
@settings(max_examples=500)
@given(st.binary(min_size=160, max_size=160))
def test_settled(mode, tape):
    World(tape, mode).live()
