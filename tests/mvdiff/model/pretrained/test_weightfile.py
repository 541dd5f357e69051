import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from mvdiff.errors import InputError
from mvdiff.model.pretrained.weightfile import WeightFile

SOUND = save(
    {"conv_in.weight": np.ones((2, 3), np.float32), "b": np.zeros(0, np.int64), "half": np.ones(5, np.float16)},
    metadata={"format": "pt"},
)
HEADER = 8 + int.from_bytes(SOUND[:8], "little")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "model.safetensors"


def accepts(path, data):
    """Whether our reader takes ``data``; anything but an InputError of one line fails the test."""
    path.write_bytes(data)
    try:
        WeightFile.read(path)
    except InputError as error:
        assert "\n" not in str(error)
        return False
    return True


def test_a_sound_header_is_read(scratch):
    scratch.write_bytes(SOUND)
    read = WeightFile.read(scratch)
    assert {name: (one.dtype, one.shape) for name, one in read.tensors.items()} == {
        "conv_in.weight": ("F32", (2, 3)),
        "b": ("I64", (0,)),
        "half": ("F16", (5,)),
    }
    assert (read.size, read.data_start) == (len(SOUND), HEADER)


@given(st.integers(0, len(SOUND) - 1))
@settings(deadline=None)
def test_any_truncation_is_refused(scratch, length):
    assert not accepts(scratch, SOUND[:length])


@given(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(1, 255)), min_size=1, max_size=3))
@settings(max_examples=1000, deadline=None)
def test_flipped_bytes_in_the_header_raise_nothing_else_and_pass_only_if_they_load(scratch, flips):
    data = bytearray(SOUND)
    for place, bits in flips:
        data[place] ^= bits
    if accepts(scratch, bytes(data)):
        with safe_open(scratch, "numpy") as file:
            assert len(list(file.keys())) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {}, optional={"dtype": st.sampled_from(["F32", "U8"]) | JSON, "shape": JSON, "data_offsets": JSON}
)


@given(st.dictionaries(st.text() | st.just("__metadata__"), ENTRY | JSON), st.binary(max_size=20))
@settings(deadline=None)
def test_any_header_raises_nothing_else(scratch, header, data):
    text = json.dumps(header).encode()
    accepts(scratch, len(text).to_bytes(8, "little") + text + data)


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_raise_nothing_else(scratch, data):
    accepts(scratch, data)


def test_a_sample_sees_what_changed_between_the_ends(tmp_path):
    """As when the attention layers alone were trained."""
    values = np.zeros(2_000_000, np.float32)
    before = tmp_path / "before.safetensors"
    before.write_bytes(save({"a": values}))
    values[400_000:1_600_000] = 1
    after = tmp_path / "after.safetensors"
    after.write_bytes(save({"a": values}))
    first, second = (list(WeightFile.read(path).sample()) for path in (before, after))
    assert first[:2] == second[:2]
    assert first != second
