import pytest

from mvdiff.errors import InputError
from mvdiff.model.pretrained import inspect


def refusal(folder, half=False):
    with pytest.raises(InputError) as caught:
        inspect(folder, half=half)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text
