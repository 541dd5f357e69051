"""An id becomes a file name in one way, and that way is safe."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvdiff.filename import file_name

RESERVED = ("export.json", "ids.csv")
HOSTILE = [
    "/", "..", ".", "../../etc/passwd", "/etc/passwd", ".hidden", "a/b", "a\nb", " ", "a b", "-rf", "%2E", "%2Ehidden",
    "%", "%~", "export.json", "%65xport.json", "ids.csv", "con", "a\\b", "\u202e", "\ud55c" * 300, "x" * 180, "x" * 181,
    "\ud55c\uae00/\uc950 1", unicodedata.normalize("NFD", "\ud55c\uae00"), "caf\u00e9", "cafe\u0301", "\U0001f42d",
]  # fmt: skip

texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=400),
    st.text("ab./%~ ", min_size=1, max_size=6),
    st.sampled_from(HOSTILE),
)


@given(texts, texts)
@example("x" * 200, "x" * 199 + "y")
@example("%2Ea", ".a")
@settings(max_examples=500, deadline=None)
def test_two_ids_never_share_a_name(a, b):
    assert (file_name(a, RESERVED) == file_name(b, RESERVED)) == (a == b)


@given(texts)
@settings(max_examples=500, deadline=None)
def test_a_name_stays_in_its_folder_and_is_seen_there(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    name = file_name(text, RESERVED)
    assert (folder / name).resolve().parent == folder.resolve()
    assert 0 < len(name.encode()) <= 180 and name.isprintable()
    assert not name.startswith(".") and not set(name) & set("/\\ \0*?\"'$&;|<>()`")
    assert name not in RESERVED
    # A file system that composes or decomposes names must not make one name of two.
    assert unicodedata.normalize("NFC", name) == name


@pytest.mark.parametrize("text", ["mouse-001", "A.b_c-9", "x" * 180, "a..b", "-rf", "export.json.npy"])
def test_ordinary_ids_stay_as_they_are(text):
    assert file_name(text, RESERVED) == text


def test_names_stay_readable():
    assert file_name("\ud55c\uae00 1") == "\ud55c\uae00%201"
    assert file_name("../a b") == "%2E.%2Fa%20b"
    assert file_name("export.json", RESERVED) == "%65xport.json"
    assert file_name("\ud55c" * 300).startswith("\ud55c" * 33 + "%~")


@given(texts)
@settings(max_examples=200, deadline=None)
def test_a_file_of_that_name_can_be_made(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / f"{file_name(text)}.npy"
    path.write_bytes(b"")
    path.with_name(f".{path.name}.01234567.part").write_bytes(b"")
