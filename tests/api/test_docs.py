"""The pages in docs/: links lead somewhere, and commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from cellfm.cli import app
from cellfm.cli.plan import plan_of_words

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page for page in (ROOT / "docs").rglob("*.md") if not {"_build", "generated"} & set(page.parts)
)
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def own_commands(page: Path) -> list[list[str]]:
    """Words behind each `cellfm` of the shell blocks, launchers in front of it left out."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if "cellfm " in line]
    found = [line[line.index("cellfm") + 1 :] for line in words if "cellfm" in line]
    return [[word for word in line if word != "&"] for line in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_to_files(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_exist(page):
    for words in own_commands(page):
        command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert command.__module__.startswith("cellfm.cli.")


def test_commands_of_the_cluster_page_are_found():
    names = [
        " ".join(words[:2]) for words in own_commands(ROOT / "docs/how-to/pretrain-on-a-cluster.md")
    ]
    assert {"corpus build", "corpus check", "pretrain --plan", "pretrain 800m"} <= set(names)


def test_the_plan_that_is_shown():
    page = (ROOT / "docs" / "how-to" / "pretrain-on-a-cluster.md").read_text(encoding="utf-8")
    run = plan_of_words("800m", ["cells=100e6", "gpus=32", "gpu=h200"])
    for text in (
        f"{run.parameters.total:,}",
        f"{run.work.forward / 1e12:.2f} TFLOP forward, {run.work.step / 1e12:.2f} in a training step",
        f"{run.memory.total / 2**30:.0f} GiB: {run.memory.activations / 2**30:.0f} of them activations",
        f"{run.layouts[1].total / 2**30:.0f} with activation checkpointing",
        f"{run.speed.cells_per_second:,.0f} cells/s, {24 * run.speed.days_per_epoch:.1f} hours an epoch",
        f"{24 * run.speed.days_per_epoch * run.n_gpus:.0f} GPU-hours",
        f"{run.loader.cells_per_second_per_gpu:.0f} cells/s a process",
        f"{run.loader.disk_megabytes_per_second_per_node:.1f} MB/s a node",
        f"{run.checkpoints.state / 1e9:.1f} GB; weights folder {run.checkpoints.weights / 1e9:.1f} GB",
    ):
        assert text in page, text
