"""What an import costs, and what it needs."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
HEAVY = (
    "torch",
    "anndata",
    "pandas",
    "scipy",
    "h5py",
    "numpy",
    "pydantic",
    "yaml",
    "sklearn",
    "matplotlib",
)

ALLOWED = ("torch", "numpy", "safetensors", "einops", "jaxtyping")
"""All that `nn`, `train` and `weights` may need, besides what these need themselves."""


def needed(*names: str) -> set[str]:
    """Distributions that these need, extras left out."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # a requirement of another system
        if name not in found:
            found.add(name)
            plain = [text for text in requirements if "extra ==" not in text]
            waiting += [re.match(r"[\w.-]+", text)[0] for text in plain]
    return found


def refused() -> list[str]:
    """Every installed third-party module that is not needed by the allowed ones."""
    allowed = {*needed(*ALLOWED), "cellfm"}
    by_module = metadata.packages_distributions()
    return sorted(
        module
        for module, owners in by_module.items()
        if not allowed & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    )


def python(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, json, cellfm; cellfm.__version__; dir(cellfm); print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(python(code)))
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.startswith("cellfm")} == {"cellfm", "cellfm._version"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["demo", "--help"],
        ["embed", "--help"],
        ["genes", "--help"],
        ["genes", "check", "--help"],
        ["genes", "embed", "--help"],
        ["pretrain", "--help"],
        ["weights", "--help"],
        ["weights", "import", "--help"],
        ["weights", "new", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, json; from cellfm.cli import run; code = run(sys.argv[1:]); "
        "print(); print(json.dumps([code, sorted(sys.modules)]))"
    )
    exit_code, loaded = json.loads(python(code, *words).splitlines()[-1])
    assert exit_code == 0
    assert set(loaded).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "modules",
    [
        "cellfm.corpus.build, cellfm.corpus.curate, cellfm.train.plan",
        "cellfm.train, cellfm.corpus.mask",
    ],
)
def test_workers_of_a_build_and_the_plan_load_no_torch(modules: str) -> None:
    """A second of start and 200 MB for each of many processes."""
    loaded = json.loads(
        python(f"import sys, json, {modules}; print(json.dumps(sorted(sys.modules)))")
    )
    assert "torch" not in loaded


def test_lazy_names_of_train_are_no_modules() -> None:
    """A module of the same name would take the place of a function as soon as anything imports it."""
    code = (
        "import importlib, pkgutil, sys, types, cellfm.train as room\n"
        "for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([name for name in room.__all__ if isinstance(getattr(room, name), types.ModuleType)])\n"
        "print(set(room.__all__) == set(room._MODULES))\n"
        "try:\n    room.evalute\nexcept AttributeError as error:\n    print(error)\n"
    )
    assert python(code).splitlines() == [
        "[]",
        "True",
        "module 'cellfm.train' has no attribute 'evalute'",
    ]


def test_a_mistake_in_a_recipe_shows_before_torch_is_loaded() -> None:
    code = (
        "import sys, json; from cellfm.cli import run; "
        "code = run(['pretrain', 'debug', 'optim.lrr=1', '--data', 'x', '--out', 'y']); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    exit_code, loaded = json.loads(python(code))
    assert exit_code == 2
    assert set(loaded).isdisjoint({"torch", "anndata"})


WITHOUT = """
import importlib, importlib.abc, pkgutil, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            # As if it were not installed: optional imports of torch and others must see that, too.
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

REFUSED = set(sys.argv[2:])
sys.meta_path.insert(0, Refuse())
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(room, "__path__", []), room.__name__ + "."):
    importlib.import_module(module.name)
installed = set(sys.stdlib_module_names)
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules} - installed)))
"""


def test_what_is_refused() -> None:
    assert {"anndata", "cyclopts", "h5py", "pandas", "pydantic", "rich", "scipy", "yaml"} <= set(
        refused()
    )
    assert set(ALLOWED).isdisjoint(refused())


@pytest.mark.parametrize("room", ["nn", "train", "weights", "batch", "config", "genes"])
def test_rooms_need_five_packages(room: str) -> None:
    loaded = python(WITHOUT, f"cellfm.{room}", *refused()).split()
    assert set(loaded).isdisjoint(refused())
    if room in ("config", "genes"):
        assert "torch" not in loaded


FROM_NEW_TO_LOADED = """
import pathlib, sys, torch
from cellfm.config import ModelConfig
from cellfm.batch import CellBatch
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.weights import folder

out = pathlib.Path(sys.argv[2])
shape = ModelConfig(n_genes=3, dim=8, n_layers=2, n_heads=2, value_bins=4)
network = initialise(CellFM(shape), torch.Generator().manual_seed(0))
folder.save(out, network, Vocabulary.from_symbols(["A1BG", "ACTB", "CD3E"]), card="", provenance={})
loaded = folder.load(out)
batch = CellBatch(
    gene=torch.tensor([1, 3]), value=torch.ones(2), offsets=torch.tensor([0, 2]), depth=torch.ones(1, 2)
)
print(loaded.network.encode(batch, wanted="cell").cell.shape)
"""


def test_weights_work_with_five_packages(tmp_path: Path) -> None:
    """Saving, loading and encoding, not the import alone."""
    script = tmp_path / "room.py"
    script.write_text(FROM_NEW_TO_LOADED)
    code = WITHOUT.partition("room = ")[0] + f"exec(open({str(script)!r}).read())"
    shown = python(code, "", str(tmp_path / "model"), *refused())
    assert "torch.Size([1, 8])" in shown
