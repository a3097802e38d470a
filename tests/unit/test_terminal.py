"""SECURITY M4 and FAULTS 32: data on a terminal and in a pipe. One place prints it, and nothing in it is obeyed, hidden or cut."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from pipelines.reports.terminal import Screen, Steps, on_one_line, show, visible, write

ROOT = Path(__file__).resolve().parents[2]
NASTY = [
    "[/x]",
    "[bold]",
    "[link=http://x]a[/link]",
    ":smile:",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "a\rb",
    "\u202eabc",
    "\ud800",
    "\x00",
    "\\[x]",
]


def printed(what: object) -> str:
    out = io.StringIO()
    Screen(file=out).print(what)
    return out.getvalue()


def shown_forms(text: str) -> list[object]:
    table = Table("x", Column(overflow="fold"), title=text, caption=text)
    table.add_row(text, Text(text))
    return [text, Text(text), table, Tree(text), Group(text, Text(text))]


def test_titles_and_captions_are_whole_lines() -> None:
    """FAULTS 32: a table that is narrower than its title broke it in pieces."""
    table = Table("a", title="a title that is longer than its table", caption="and a caption that is longer than that", box=None)
    table.add_row("1")
    assert [line.strip() for line in printed(table).splitlines()] == [table.title, "a", "1", table.caption]


@pytest.mark.parametrize("text", NASTY)
def test_data_is_shown_as_it_is(text: str) -> None:
    """SECURITY M4: '"origin": "[/x]"' ended 'tandem dlq list' with a MarkupError; escape sequences reached the terminal."""
    for form in shown_forms(text):
        out = printed(form)
        if not isinstance(form, Text | Tree):  # rich leaves a few characters out of a Text by itself
            assert visible(text) in out
        assert {c for c in out if not c.isprintable()} <= {"\n"}
        out.encode()


@given(st.text(max_size=20))
def test_whatever_the_text_nothing_is_obeyed(text: str) -> None:
    """SECURITY M4."""
    for form in shown_forms(text):
        assert not any(c in "\x1b\x07\x08\r\x9b\x00\u202e" for c in printed(form))
        printed(form).encode()


def test_what_is_escaped_is_written_as_python_does() -> None:
    assert visible("a\x1b[2J\x9b\u202e\ud800é\t\n漢") == "a\\x1b[2J\\x9b\\u202e\\ud800é\t\n漢"


def test_nobody_makes_a_line_of_his_own_in_a_list() -> None:
    """SECURITY M4: a reason in the audit log, or a header's name in 'dlq show', with a line end in it looked like one more."""
    assert on_one_line("ok\n7  root@host\tpromote\r\x1b[2J\u2028x") == "ok\\n7  root@host\\tpromote\\r\\x1b[2J\\u2028x"
    assert on_one_line(7) == "7"


def test_a_table_is_not_cut_where_there_is_no_terminal() -> None:
    """FAULTS 32: a record's id in 'dlq list' was broken at 80 columns, and 'dlq show' did not find it."""
    row = [f"{'x' * 70}/{i}/123456789" for i in range(8)]
    table = Table(*"abcdefgh", box=None)
    table.add_row(*row)
    lines = printed(table).splitlines()
    assert len(lines) == 2
    assert lines[1].split() == row


def test_the_width_of_a_terminal_is_kept() -> None:
    """FAULTS 32: where there is a terminal its width holds."""
    code = "from pipelines.reports.terminal import Screen; import sys; c = Screen(); sys.stderr.write(f'{c.is_terminal} {c.width}')"
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"COLUMNS": "93", "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, env=environment, text=True)
    os.close(theirs)
    os.close(ours)
    assert done.stderr == "True 93"


def test_progress_and_results_go_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    """SECURITY M4."""
    write("a\x1b[2Jb [/x]")
    show({"x": "\x1b[2J"}, True)
    assert capsys.readouterr().out == "a\\x1b[2Jb [/x]\n" + json.dumps({"x": "\x1b[2J"}, indent=2) + "\n"
    out = io.StringIO()
    steps = Steps(Screen(file=out))
    with steps.doing("[/x]") as say:
        say("a\x1b[2Jb [/x]")
    assert out.getvalue().endswith("s  a\\x1b[2Jb [/x]\n")


def test_one_place_prints_data() -> None:
    """SECURITY M4: no other module makes a console, or uses markup."""
    for top in ("pipelines", "serving", "tandem"):
        for path in (ROOT / top).rglob("*.py"):
            if path == ROOT / "pipelines" / "reports" / "terminal.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    names = {f"{node.module}.{a.name}" for a in node.names}
                    assert not names & {"rich.console.Console", "rich.print", "rich.get_console", "rich.markup.escape"}, path
                if isinstance(node, ast.Attribute):
                    assert node.attr != "from_markup", path
