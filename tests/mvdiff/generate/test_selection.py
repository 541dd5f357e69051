"""Which samples are asked for, from words of any kind."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.generate.selection import choose, listed
from mvdiff.shard import ShardIndex

IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)
HOSTILE = ["plain", "두 마리", "a/../b", "two\nlines", "a,b", '"quoted"', " spaced ", "@at", "\u2028", "${x}"]


@given(st.lists(IDS, min_size=1))
def test_any_id_can_be_written_as_a_json_string(ids):
    assert listed(",".join(json.dumps(name) for name in ids), "ids") == ids


@given(st.lists(IDS, min_size=1), st.booleans())
def test_any_id_can_be_written_into_a_file(tmp_path_factory, ids, ascii_only):
    path = tmp_path_factory.mktemp("ids") / "ids.txt"
    path.write_bytes("\n".join(json.dumps(name, ensure_ascii=ascii_only) for name in ids).encode())
    assert listed(f"@{path}", "ids") == ids


def test_ids_are_written_as_they_are_where_no_comma_or_newline_is_in_them(tmp_path):
    assert listed('plain,두 마리,a/../b,"two\\nlines",last', "ids") == [
        "plain",
        "두 마리",
        "a/../b",
        "two\nlines",
        "last",
    ]
    path = tmp_path / "ids.txt"
    path.write_bytes('\ufeffplain\r\n두 마리\n\na,b\u2028c\n"two\\nlines"\n'.encode())
    assert listed(f"@{path}", "ids") == ["plain", "두 마리", "a,b\u2028c", "two\nlines"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("@/does/not/exist", "cannot be read"),
        ('"open', "no JSON string"),
        ('"a"b', "behind"),
        (",", "names nothing"),
        ("@FILE", "FILE line 2 begins with a double quote"),
        ("@EMPTY", "names nothing"),
        ("@LATIN", "not UTF-8"),
    ],
)
def test_what_lists_nothing_is_told(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text('a\n"b\n')
    (tmp_path / "EMPTY").write_text("\n\n")
    (tmp_path / "LATIN").write_bytes(b"\xe4\n")
    with pytest.raises(InputError, match=says):
        listed(text, "ids")


def test_a_limit_counts_what_was_chosen(bench):
    index = ShardIndex.scan(bench.data)
    assert list(choose(index, None, 3)[0]) == [0, 1, 2]
    assert list(choose(index, None, 99)[0]) == list(range(10))
    assert choose(index, ["mouse-007", "mouse-001", "mouse-007", "mouse-003"], 2) == ([1, 3], [])


def test_an_id_may_lie_in_a_shard_that_cannot_be_read(bench):
    (bench.data / "b.h5").write_bytes(b"")
    index = ShardIndex.scan_readable(bench.data)
    assert choose(index, ["mouse-001", "mouse-007"], None) == ([1], ["mouse-007"])
    with pytest.raises(InputError, match=r"no sample is called 'mouse-007', and 1 shard cannot be read"):
        choose(index, ["mouse-007"], None)


def test_samples_of_any_name_are_chosen_and_planned(bench, write_named):
    write_named("hostile.h5", HOSTILE)
    plan = bench.plan(ids=HOSTILE)
    assert [name for part in plan for name in part.ids] == HOSTILE
    assert plan.slice_at(1).ids == HOSTILE[4:8]
