"""The dialect of a text by its beginning: a chance value, or a blank in words, makes no header and no delimiter, and no line is lost."""

from __future__ import annotations

import pytest

from pipelines.inference.text_dialect import dialect_of, text_records
from transforms.definitions import Csv


def guessed(text: str) -> Csv:
    return dialect_of(text.encode(), None, "a file")


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("id,type,value\n1,type,5\n2,other,6\n3,x,7", True),  # a value that is its column's name
        ("id,type\n1,type\n2,type\n3,type", True),
        ("name,type\na,type\nb,other", True),
        ("name,2020-01-01,2020-01-02\na,1,2\nb,3,4", True),  # a pivot's days
        ("name,2020-01-01\na,x\nb,y", True),
        ("id;1.2.2020;2.2.2020\n1;1,5;2,5", True),
        ("a,NA,b\nc,1,d\ne,2,f", True),  # names may be anything; each once, and no value below
        ("shop,web,2024-05-01\nbar,app,2024-05-02", False),
        ("shop,web,2024-05-01\nbar,app,", False),
        ("a,web\nb,web\nc,web\nd,app", False),  # words that come again and again
        ("a,NA,web\nb,1,web\nc,2,web", False),  # nothing above numbers is no name of them
        ("1,web\n2,app", False),
        ("name,name\na,b", False),
        ("name,type\nname,type\na,b\nc,d", True),  # files that were joined
    ],
)
def test_whether_the_first_line_is_of_names(text: str, header: bool) -> None:
    assert guessed(text).header is header


@pytest.mark.parametrize(
    ("text", "comment", "skip", "ids"),
    [
        ("# made by x\nid,tag\n#1,a\n#2,b\n3,c", None, 1, ["#1", "#2", "3"]),
        ("# made by x\n#id,tag\n1,a\n2,b", None, 1, ["1", "2"]),
        ("# made by x\nid,tag\n1,a\n# a note\n2,b", "#", 0, ["1", "2"]),
        ("# made by x\nid,tag\n" + "1,a\n" * 300 + "#2,b\n", None, 1, ["1"] * 300 + ["#2"]),  # behind the lines that decide the rest
        ("made by x\nid,tag\n#1,a\n2,b", None, 1, ["#1", "2"]),
    ],
)
def test_no_record_is_a_comment(text: str, comment: str | None, skip: int, ids: list[str]) -> None:
    dialect = guessed(text)
    assert (dialect.comment, dialect.skip) == (comment, skip)
    lines = text.splitlines(keepends=True)[skip:]
    assert [next(iter(record.values())) for record in text_records(lines, dialect)] == ids


@pytest.mark.parametrize(
    "text",
    [
        "name\nJohn Smith\nJane Doe\nBob Brown",
        "full name\nJohn Smith\nJane Doe\nBob Brown",
        "name\nJohn A. Smith\nJane B. Doe",
        "address\n12 Elm\n9 Oak",
        "time\n2020-01-01 10:00:00\n2020-01-02 10:00:00",
        "2020-01-01 10:00:00\n2020-01-02 10:00:00",
        "created at\n2020-01-01 10:00:00\n2020-01-02 11:00:00",
    ],
)
def test_a_column_of_words_stays_one(text: str) -> None:
    assert guessed(text).delimiter == "," and guessed(text).skip == 0


@pytest.mark.parametrize("text", ["id bytes action\n1 5 ACCEPT\n2 6 REJECT", "x y\n1 2\n3 4.5", "1 2\n3 4"])
def test_blanks_between_columns(text: str) -> None:
    assert guessed(text).delimiter == " "
