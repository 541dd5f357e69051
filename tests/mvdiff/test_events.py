"""Whatever text an event carries comes back, and costs no other event."""

import pytest

from mvdiff.errors import InputError, one_line
from mvdiff.events import EventLog, read_events

TEXTS = ["a\nb", "a\r\nb", "\u2028", "\u2029", "\x85", "\x0b\x0c\x1c", "쥐", '"', "\x1b[2J"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tmp_path, text):
    log = EventLog(tmp_path / "a.jsonl")
    log.write("failed", sample_id=text)
    log.write("published", missing=[text])
    first, second = read_events(tmp_path)
    assert (first["sample_id"], second["missing"]) == (text, [text])


@pytest.mark.parametrize("text", [*TEXTS, "\udcff", "\u202e"])
def test_what_people_read_is_one_line(text):
    error = InputError(f"sample {text} is bad", f"leave {text} out")
    assert str(error).isprintable() and str(error).splitlines() == [str(error)]
    assert one_line("mouse-001 쥐: fine") == "mouse-001 쥐: fine"
