"""Reading csv and tsv: what was written is read, row by row; what can be read in two ways is refused."""

import csv
import os

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tkd_hf import InputError
from tkd_hf.data.delimited import iterate_rows, read_delimited, scan
from tkd_hf.data.files import read_file


TEXTS = st.text(
    st.sampled_from("ab \"',;\t\n\r|é😀0١") | st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
)


def write(path, text):
    path.write_bytes(text.encode())
    return path


def read(path):
    return read_delimited(path, "x" + str(path.stat().st_mtime_ns)).to_list()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["spam", "ham"])), min_size=1, max_size=6),
    st.sampled_from([".csv", ".tsv"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_the_csv_module_writes_is_read_as_it_is(tmp_path, rows, suffix, quoting):
    path = tmp_path / f"data{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter={".csv": ",", ".tsv": "\t"}[suffix], quoting=quoting)
        writer.writerows([("text", "pair", "label"), *rows])
    try:
        layout = scan(path)
    except InputError as error:  # only if every physical line happens to have three cells
        assume("can be read in two ways" not in str(error))
        raise
    read_rows = [tuple(row.values()) for row in iterate_rows(str(path), layout)]
    as_texts = [tuple("" if cell is None else cell for cell in row) for row in read_rows]
    assert layout.rows == len(rows)
    numbers = [index for index, kind in enumerate(layout.types) if kind != "string"]
    for written, row in zip(rows, as_texts, strict=True):
        for index, cell in enumerate(written):
            if index not in numbers:
                assert row[index] == cell
            elif row[index] != "":
                assert (
                    float(cell) == row[index] if cell.casefold() not in ("true", "false") else isinstance(row[2], bool)
                )


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ",")])
def test_texts_that_begin_with_a_stray_quotation_mark_swallow_no_rows(tmp_path, caplog, suffix, separator):
    """pandas reads 40 rows of these 60 without a word."""
    caplog.set_level("INFO", "tkd_hf")
    texts = [{10: '"so it says', 30: '"once more'}.get(i, f"text {i}") for i in range(60)]
    lines = [f"text{separator}label", *(f"{text}{separator}{i % 2}" for i, text in enumerate(texts))]
    rows = read(write(tmp_path / f"x{suffix}", "\n".join(lines) + "\n"))
    assert rows == [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    assert "quotation marks are therefore read as characters of the texts (60 rows)" in caplog.text


def test_a_swallowed_row_that_ends_like_a_quoted_cell_is_refused(tmp_path):
    """The first text begins with a mark and the second ends with one, so that both readings are consistent."""
    path = write(tmp_path / "x.tsv", 'text\tlabel\n"so it\t1\nsays"\t0\nfine\t1\n')
    with pytest.raises(InputError, match=r"read in two ways: as 2 rows, .* or as 3 rows"):
        scan(path)


def test_marks_within_a_text_and_quoted_cells_are_read_by_the_rules(tmp_path):
    path = write(tmp_path / "x.csv", 'text,label\nhe said "hi",a\n"so, ""it"" says\nthat",b\n\n"quoted",c\n')
    assert [row["text"] for row in read(path)] == ['he said "hi"', 'so, "it" says\nthat', "quoted"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,1\nb,2,3\n", r"the row at line 3 has 3 cells, but the header has 2"),
        ("text,label\na,1\nb\n", r"the row at line 3 has 1 cells, but the header has 2"),
        ('text,label\n"a, b",1\n"c\n', r"the quotation marks are not paired .*unexpected end of data"),
        ("", r"is empty; its first line must name the columns"),
        ("text,text\na,b\n", r"several columns 'text'"),
    ],
)
def test_rows_that_no_reading_explains_are_refused_with_their_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        scan(write(tmp_path / "x.csv", content))


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"no UTF-8 text .* at byte 14"):
        scan(path)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["0.5", "2", "NA"], [0.5, 2.0, None]),
        (["True", "false", "TRUE"], [True, False, True]),
        (["007", "010", "1"], ["007", "010", "1"]),
        (["None", "null", "NA"], ["None", "null", "NA"]),
        (["9999999999", "1", "0"], [9999999999, 1, 0]),
        (["99999999999999999999", "1", "0"], [1e20, 1.0, 0.0]),
        (["+49", "1_000", "1"], ["+49", "1_000", "1"]),
    ],
)
def test_a_column_is_numeric_only_if_every_cell_is_a_number(tmp_path, cells, values):
    lines = [f"t{i},{cell}" for i, cell in enumerate(cells)]
    assert [row["x"] for row in read(write(tmp_path / "x.csv", "\n".join(["text,x", *lines])))] == values


def test_rows_are_those_of_the_file_although_its_size_and_time_are_the_same(tmp_path):
    """Copies with cp -p, rsync -t or tar keep the time of change, by which the cache of datasets knows a file."""
    contents = {
        "csv": ("text,label\nold,1\n", "text,label\nnew,0\n"),
        "jsonl": ('{"text": "old"}\n', '{"text": "new"}\n'),
        "txt": ("old\n", "new\n"),
    }
    for suffix, versions in contents.items():
        path = tmp_path / f"x.{suffix}"
        texts = []
        for version in versions:
            os.utime(write(path, version), (1_600_000_000, 1_600_000_000))
            texts.append(read_file(path, "train", "train")["text"][:])
        assert texts == [["old"], ["new"]]
