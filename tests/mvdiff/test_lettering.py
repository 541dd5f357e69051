"""Words on pictures."""

import numpy as np
import pytest

from mvdiff.lettering import LINE, fitted, line


@pytest.mark.parametrize("word", ["Mäuse ü é ñ ß ø Ł č ő", "мышь", "ποντίκι", "$(touch x) 'q' \"d\" -lead"])
def test_letters_of_european_languages_are_drawn(word):
    assert fitted(word, 1000) == word


def test_what_the_font_lacks_or_nobody_could_see_stands_as_an_escape():
    assert fitted("鼠-1\x1b[0m\n🐭", 1000) == "\\u9f20-1\\x1b[0m\\n\\U0001f42d"


def test_a_letter_and_its_accent_are_one_as_file_names_of_a_mac_have_them():
    assert fitted("u\u0308", 100) == "ü"
    assert np.array_equal(line(["u\u0308"], 50), line(["ü"], 50))


def test_long_words_keep_both_ends_and_stay_in_their_column():
    name = "mouse-" + "x" * 1000 + "-17"
    shown = fitted(name, 200)
    assert shown.startswith("mouse-x") and shown.endswith("x-17") and shown.count("…") == 1
    drawn = line([name, "next"], 200)
    assert drawn.shape == (LINE, 400, 3)
    assert np.array_equal(drawn[:, 200:], line(["next"], 200)), "nothing spills over"
