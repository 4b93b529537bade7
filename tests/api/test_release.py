"""What a release says of itself: version, citation, workflows, pages."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from cellfm import __version__

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS, PYTHONS = {"ubuntu", "macos", "windows"}, {"3.11", "3.12", "3.13"}


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    for field in ("cff-version", "message", "title", "authors", "license", "type"):
        assert citation[field], field
    assert citation["cff-version"] == "1.2.0"
    article = citation["preferred-citation"]
    assert re.fullmatch(r"10\.\d{4,}/\S+", article["doi"])
    for field in ("type", "title", "authors", "journal", "year"):
        assert article[field], field
    for author in [*citation["authors"], *article["authors"]]:
        assert {"name"} == author.keys() or {"family-names", "given-names"} <= author.keys()


def test_the_licence_is_the_one_that_is_said() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "BSD-3-Clause"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "BSD 3-Clause" in text or "Redistribution and use in source and binary forms" in text


def test_every_system_and_python_runs_the_same_script() -> None:
    (job,) = (job for job in workflow("ci.yml")["jobs"].values() if "strategy" in job)
    matrix = job["strategy"]["matrix"]
    assert {name.removesuffix("-latest") for name in matrix["os"]} == SYSTEMS
    assert set(matrix["python"]) == PYTHONS
    assert not matrix.get("exclude")
    assert "bash .ci/run" in commands(job)
    assert job["runs-on"] == "${{ matrix.os }}"
    setup = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setup[0]["with"]["python-version"] == "${{ matrix.python }}"


def test_the_release_is_rehearsed_before_it_is_made() -> None:
    in_ci = list(itertools.chain(*map(commands, workflow("ci.yml")["jobs"].values())))
    assert "bash .ci/release" in in_ci
    jobs = workflow("release.yml")["jobs"]
    (build,) = (job for job in jobs.values() if "bash .ci/release" in commands(job))
    assert "bash .ci/run" in commands(build)
    assert jobs["publish"]["needs"] == "build"


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_are_allowed_no_more_than_they_need(name: str) -> None:
    assert workflow(name)["permissions"] == {"contents": "read"}


def test_pages_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text)
    local = [a or b for a, b in targets if not (a or b).startswith(("http://", "https://"))]
    assert local
    assert not [target for target in local if not (ROOT / target).exists()]


@pytest.mark.parametrize(
    "path",
    [
        "CHANGELOG.md",
        "CITATION.cff",
        "CODE_OF_CONDUCT.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "SECURITY.md",
        ".github/PULL_REQUEST_TEMPLATE.md",
        ".github/ISSUE_TEMPLATE/bug.yml",
        ".github/ISSUE_TEMPLATE/config.yml",
        ".github/ISSUE_TEMPLATE/question.yml",
    ],
)
def test_what_a_project_needs_beside_code_is_there(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.strip()
    if path.endswith(".yml"):
        assert isinstance(yaml.safe_load(text), dict)
