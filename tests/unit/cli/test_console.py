"""What commands print reaches people, machines or no one."""

import json
import sys

import pandas as pd
import pytest
from rich.table import Table

from cellfm.cli import console
from cellfm.cli.console import print_table, say, show_table, speaking, tell, wrote


def everything() -> None:
    table = pd.DataFrame(
        {"n_cells": ["1,200", "7"], "share": ["0.25", "−1e-3"], "note": ["", "12 %"]},
        index=pd.Index(["007", "B cell"], name="cell type"),
    )
    print_table("Types", table)
    facts = Table(show_header=False)
    facts.add_row("cells", "1,200")
    facts.add_row("version", "1.2.3")
    show_table(facts)
    say("a sentence")
    sys.stdout.write("by other means\n")
    wrote("a.tsv", "b.tsv", about="two tables")
    tell("fact", {"of": [1, None]})


def test_machines(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking("machines") as said:
        everything()
    assert capsys.readouterr().out == ""
    found = json.loads(said.to_json(command="do it", code=3, error=None, message=""))
    assert found == {
        "command": "do it",
        "exit_code": 3,
        "error": None,
        "fact": {"of": [1, None]},
        "tables": [
            {
                "title": "Types",
                "rows": [
                    {"cell type": "007", "n_cells": 1200, "share": 0.25, "note": ""},
                    {"cell type": "B cell", "n_cells": 7, "share": -0.001, "note": "12 %"},
                ],
            },
            {"title": "", "values": {"cells": 1200, "version": "1.2.3"}},
        ],
        "written": ["a.tsv", "b.tsv"],
        "text": ["a sentence", "by other means", "wrote a.tsv, b.tsv: two tables"],
    }


def test_no_one(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking("quiet"):
        everything()
        console.progress_console().print("working")
        console.complain("a problem")
    assert capsys.readouterr() == ("", "cellfm: a problem\n")


def test_people(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking("people"):
        everything()
        console.progress_console().print("working")
        console.complain("a problem")  # which is among the other lines
    shown = capsys.readouterr()
    for expected in ("Types", "1,200", "a sentence", "by other means", "wrote a.tsv, b.tsv"):
        assert expected in shown.out
    assert "fact" not in shown.out
    assert shown.err == "working\n"


def test_a_name_is_no_number() -> None:
    kept = ["007", "1,20", "1.2.3", "nan", "inf", "", "12 %", "1e", "0x10"]
    assert [console._value(entry) for entry in kept] == kept
    assert [console._value(entry) for entry in ("0", "+3", "-2.50", "1,234,567", "3E8")] == [0, 3, -2.5, 1234567, 3e8]  # fmt: skip
