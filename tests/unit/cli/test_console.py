"""What commands print reaches people, machines or no one."""

import json
import logging
import sys

import pandas as pd
import pytest
from rich.table import Table

from cellfm.cli import as_options, console
from cellfm.cli.console import (
    counted,
    next_step,
    print_table,
    say,
    say_some,
    show_table,
    speaking,
    tell,
    wrote,
)


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
    next_step("view", "a b.h5ad")
    tell("fact", {"of": [1, None]})
    for _ in range(2):
        logging.getLogger("cellfm.tl").warning("beware")


def test_machines(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking("machines") as said:
        everything()
    assert capsys.readouterr() == ("", "warning: beware\n")
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
        "next": "cellfm view 'a b.h5ad'",
        "written": ["a.tsv", "b.tsv"],
        "warnings": ["beware"],
        "text": [
            "a sentence",
            "by other means",
            "wrote a.tsv, b.tsv: two tables",
            "Next: cellfm view 'a b.h5ad'",
        ],
    }


def test_no_one(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking("quiet"):
        everything()
        console.progress_console().print("working")
        console.complain("a problem")
    assert capsys.readouterr() == ("", "warning: beware\ncellfm: a problem\n")


def test_people(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking("people"):
        everything()
        console.progress_console().print("working")
        console.complain("a problem")  # which is among the other lines
    shown = capsys.readouterr()
    for expected in ("Types", "1,200", "a sentence", "by other means", "wrote a.tsv, b.tsv"):
        assert expected in shown.out
    assert "fact" not in shown.out
    assert shown.err == "warning: beware\nworking\n"


def test_a_name_is_no_number() -> None:
    kept = ["007", "1,20", "1.2.3", "nan", "inf", "", "12 %", "1e", "0x10"]
    assert [console._value(entry) for entry in kept] == kept
    assert [console._value(entry) for entry in ("0", "+3", "-2.50", "1,234,567", "3E8")] == [0, 3, -2.5, 1234567, 3e8]  # fmt: skip


def test_of_many_lines_people_are_told_some(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"line {number}" for number in range(5)]
    with speaking("people"):
        say_some(lines, most=2, rest="see the report")
        say_some(lines[:2], most=2, rest="see the report")
    shown = capsys.readouterr().out.splitlines()
    assert shown == [*lines[:2], "and 3 more: see the report", *lines[:2]]
    with speaking("machines") as said:
        say_some(lines, most=2, rest="see the report")
    assert said.text.getvalue().splitlines() == lines


def test_one_is_no_plural() -> None:
    assert [counted(n, "part") for n in (0, 1, 1200)] == ["0 parts", "1 part", "1,200 parts"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('say scale="log1p" if only', "say --scale log1p if only"),
        ("layer=NAME if so; use_raw=True.", "--layer NAME if so; --use-raw."),
        ("Choose another key_added=…, or say overwrite=True.", "Choose another --key-added …, or say --overwrite."),
        ("another name, or say overwrite.", "another name, or say --overwrite."),
        ("or pass overwrite (--overwrite).", "or pass --overwrite."),
        ("leave them out (use_raw=True, --use-raw) or layer=… (--layer).", "leave them out (--use-raw) or --layer ….",),
        ("name it (layer=…, --layer)", "name it (--layer …)"),
        ("lower min_matched, not dim_state=3", "lower --min-matched, not dim_state=3"),
        ("obs has 'key_added', use_raw=False", "obs has 'key_added', use_raw=False"),
    ],
)  # fmt: skip
def test_arguments_are_told_as_options(text: str, expected: str) -> None:
    parameters = {"scale", "layer", "use_raw", "key_added", "overwrite", "min_matched"}
    assert as_options(text, parameters) == expected


def test_words_that_are_no_options_stay() -> None:
    assert (
        as_options("say overwrite=True or layer=NAME", set()) == "say overwrite=True or layer=NAME"
    )
