"""The doctor on the command line, what every command says to machines or to no one, and completion."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pytest

from cellfm import cli
from tests.e2e.conftest import Cellfm
from tests.e2e.simulate import N_CELLS, N_GENES


def test_doctor_on_a_file(cellfm: Cellfm, simulated: Path) -> None:
    outcome = cellfm("doctor", simulated, "--n-cells", "8")
    assert outcome.code == 0, outcome.err
    assert f"{N_CELLS} cells × {N_GENES} genes" in outcome.out
    assert "raw counts" in outcome.out
    assert "PROBLEM" not in outcome.out
    said = json.loads(cellfm("doctor", simulated, "--n-cells", "8", "--json").out)
    assert (said["command"], said["exit_code"], said["error"]) == ("doctor", 0, None)
    facts = said["file"]
    assert (facts["n_cells"], facts["n_genes"], facts["counts"]) == (N_CELLS, N_GENES, "X")
    for finding in facts["findings"]:
        if finding["topic"] != "time":  # measured anew
            assert " ".join(finding["text"].split()) in " ".join(outcome.out.split())
    assert f"Next: {facts['next']}" in outcome.out.splitlines()
    for advice in facts["commands"]:
        assert (advice["line"] or advice["command"]) in outcome.out


def test_every_line_to_paste_is_one_that_the_command_line_takes(
    cellfm: Cellfm, simulated: Path, tmp_path: Path
) -> None:
    adata = ad.read_h5ad(simulated)
    adata.obs["batch"] = ["a", "b"] * (adata.n_obs // 2)
    genes = [*adata.var_names[:5], "control"]
    adata.obs["perturbation"] = [genes[i % 6] for i in range(adata.n_obs)]
    adata.layers["counts"] = adata.X
    adata.X = adata.layers.pop("logged")
    adata.var = adata.var.set_index("ensembl").set_axis([f"g{i}" for i in range(adata.n_vars)])
    adata.var["symbol"] = ad.read_h5ad(simulated).var_names
    path = tmp_path / "all of it.h5ad"  # a name that needs quotes
    adata.write_h5ad(path)
    said = json.loads(cellfm("doctor", path, "--n-cells", "8", "--model", "mini", "--json").out)
    works = [each for each in said["file"]["commands"] if each["works"]]
    assert len(works) >= 9
    for advice in works:
        first, *words = shlex.split(advice["line"])
        assert first == "cellfm"
        _, bound, _ = cli.app.parse_args(words, print_error=False, exit_on_error=False)
        assert path.name in advice["line"]
        assert bound.args or bound.kwargs


def test_the_next_line_runs(cellfm: Cellfm, simulated: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    adata = ad.read_h5ad(simulated)[:40]
    adata.write_h5ad(path)
    said = json.loads(cellfm("doctor", path, "--n-cells", "8", "--json").out)
    outcome = cellfm(*shlex.split(said["file"]["next"])[1:], "--json")
    done = json.loads(outcome.out)
    assert done["written"] == [str(tmp_path / "cells.cellfm.h5ad")]
    assert done["tables"][0]["values"]["cells"] == 40
    assert ad.read_h5ad(done["written"][0]).obsm["X_cellfm"].shape[0] == 40


def test_bad_files_end_with_two(cellfm: Cellfm, simulated: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(simulated.read_bytes()[:5000])
    for path in (cut, tmp_path / "none.h5ad"):
        outcome = cellfm("doctor", path)
        assert outcome.code == 2
        assert "PROBLEM" in outcome.out
        assert "Next: see to the problems above" in outcome.out
        quiet = cellfm("doctor", path, "--quiet")
        assert (quiet.code, quiet.out) == (2, "")
        assert quiet.err.startswith("cellfm: file: ")
    assert cellfm("doctor", simulated, "--model", "no-such").code == 2


def test_doctor_on_the_machine(cellfm: Cellfm) -> None:
    outcome = cellfm("doctor", "--json", "--device", "cpu")
    said = json.loads(outcome.out)
    assert said["machine"]["packages"]["torch"]
    assert said["machine"]["self_test_seconds"] > 0
    assert outcome.code == said["exit_code"]
    shown = cellfm("doctor", "--device", "cpu")
    assert "self-test" in shown.out
    assert "Next: cellfm demo" in shown.out


def test_convert(cellfm: Cellfm, simulated: Path, tmp_path: Path) -> None:
    table, target = tmp_path / "cells.csv", tmp_path / "made.h5ad"
    ad.read_h5ad(simulated)[:20].to_df().astype(int).to_csv(table)
    outcome = cellfm("convert", table, target)
    assert outcome.code == 0, outcome.err
    assert f"wrote {target}: 20 cells × {N_GENES} genes" in outcome.out
    assert cellfm("convert", table, target).code == 2
    assert cellfm("convert", table, target, "--overwrite", "--quiet") == (0, "", "")


def test_machines_get_one_object(cellfm: Cellfm, simulated: Path) -> None:
    outcome = cellfm("genes", "check", simulated, "--json")
    said = json.loads(outcome.out)
    assert said["command"] == "genes check"
    assert any("input genes matched" in line for line in said["text"])
    for words, kind in (
        (["genes", "check", "none.h5ad"], "DataError"),
        (["genes", "check"], "MissingArgumentError"),
        (["embd"], "UnknownCommandError"),
    ):
        outcome = cellfm(*words, "--json")
        said = json.loads(outcome.out)
        assert outcome.code == said["exit_code"] == 2
        assert said["error"]["kind"] == kind
        assert said["error"]["message"]
        assert outcome.err  # people are told, too


def test_quiet_leaves_errors(cellfm: Cellfm, simulated: Path) -> None:
    assert cellfm("genes", "check", simulated, "--quiet") == (0, "", "")
    outcome = cellfm("genes", "check", "none.h5ad", "--quiet")
    assert (outcome.code, outcome.out) == (2, "")
    assert "There is no file none.h5ad" in outcome.err


def test_help_is_help_whatever_else_is_said(cellfm: Cellfm) -> None:
    for flag in ("--json", "--quiet"):
        assert "Usage" in cellfm("doctor", "--help", flag).out
    assert "--quiet" in cellfm("--help").out


SHELLS = {
    "bash": ".local/share/bash-completion/completions/cellfm",
    "zsh": ".zsh/completions/_cyclopts_cellfm",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed(
    cellfm: Cellfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("ZSH", "ZSH_CUSTOM"):
        monkeypatch.delenv(name, raising=False)
    outcome = cellfm("--install-completion", "--shell", shell)
    assert outcome.code == 0, outcome.err
    script = tmp_path / SHELLS[shell]
    assert str(script) in outcome.out
    assert "doctor" in script.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="needs bash")
def test_bash_completes(cellfm: Cellfm, tmp_path: Path) -> None:
    script = tmp_path / "cellfm.bash"
    assert cellfm("--install-completion", "--shell", "bash", "--output", script).code == 0
    for words, expected in (("cellfm do", "doctor"), ("cellfm genes ch", "check"), ("cellfm embed --mod", "--model")):  # fmt: skip
        typed = words.split()
        ask = f'source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _cellfm; echo "${{COMPREPLY[@]}}"'
        shown = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        assert expected in shown.stdout.split()
