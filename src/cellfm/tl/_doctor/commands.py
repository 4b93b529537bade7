"""Which commands would work on a file, as lines to paste, and why others would not."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellfm.tl._doctor.columns import ObsColumn
from cellfm.tl._doctor.matrix import Kind

LOGGED: tuple[Kind, ...] = ("log1p", "logged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Of one command.

    Attributes
    ----------
    command
        Its name.
    works
        Whether it would work on the file as it is.
    line
        What to paste, or what would have to be done before.
    why
        Why it would not work, or what to know.
    """

    command: str
    works: bool
    line: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file is to be read.

    Attributes
    ----------
    path
        The file.
    is_h5ad
        Whether commands on cells take it.
    matrix, kind
        The matrix that was chosen, and what it holds.
    gene_names
        Column with the names of genes; None for the index.
    genes_known
        Whether enough of them are the model's.
    has_empty
        Whether cells without genes were seen.
    columns
        Columns of ``obs`` that group cells.
    model
        Weights that were asked for.
    """

    path: Path
    is_h5ad: bool
    matrix: str
    kind: Kind
    gene_names: str | None
    genes_known: bool
    has_empty: bool
    columns: Sequence[ObsColumn]
    model: str | None

    @property
    def logged(self) -> bool:
        """Whether there are logarithms only."""
        return self.kind in LOGGED

    def line(self, command: str, *words: str, scale: bool = True, empty: bool = False) -> str:
        """Return a command on this file with the options that say how to read it.

        Parameters
        ----------
        command
            Its name.
        words
            After the file.
        scale
            Whether it takes ``--scale``.
        empty
            Whether it takes ``--empty``.
        """
        return f"cellfm {command} {shlex.join([str(self.path), *words, *self.options(scale=scale, empty=empty)])}"

    def options(self, *, scale: bool = True, empty: bool = False, model: bool = True) -> list[str]:
        """Return the options that say how to read the file.

        Parameters
        ----------
        scale, empty, model
            Whether a command takes ``--scale``, ``--empty`` and ``--model``.
        """
        options: list[str] = []
        if self.matrix == "raw/X":
            options.append("--use-raw")
        elif self.matrix.startswith("layers/"):
            options += ["--layer", self.matrix.removeprefix("layers/")]
        if self.gene_names is not None:
            options += ["--gene-names", self.gene_names]
        if model and self.model is not None:
            options += ["--model", self.model]
        if scale and self.logged:
            options += ["--scale", "log1p"]
        if empty and self.has_empty:
            options += ["--empty", "nan"]
        return options

    def beside(self, what: str) -> str:
        """Return the name of a file or folder beside this one.

        Parameters
        ----------
        what
            Its ending.
        """
        name = (self.path.name or self.path.resolve().name).removesuffix(".gz")  # "." has none
        stem = name.rsplit(".", 1)[0] if "." in name and self.path.is_file() else name
        folder = self.path.parent if self.path.is_file() else Path()
        # Data often lie where one may read only: then the folder one is in.
        return str(folder / f"{stem}{what}" if os.access(folder, os.W_OK) else f"{stem}{what}")

    def best(self, role: str) -> ObsColumn | None:
        """Return the column that most looks like a role and has several values.

        Parameters
        ----------
        role
            Such as ``"batch"``.
        """
        fit = [each for each in self.columns if role in each.roles and each.n_values > 1]
        return min(fit, key=lambda each: (each.name.lower() != role, each.n_missing), default=None)


ON_CELLS = (
    "embed",
    "annotate",
    "annotate train",
    "integrate",
    "denoise",
    "perturb train",
    "corpus add",
)
NEEDS_COUNTS = ("denoise", "genes programs", "perturb train", "corpus add")


def advise(reading: Reading) -> Iterator[Advice]:
    """Yield a line for each command on cells.

    Parameters
    ----------
    reading
        How the file is to be read.
    """
    if not reading.genes_known:
        yield from _none(ON_CELLS, "too few of its genes are the model's")
    elif reading.kind != "counts" and not reading.logged:
        yield from _none(ON_CELLS, "its values are neither counts nor logarithms of them")
    elif not reading.is_h5ad:
        line = f"cellfm convert {shlex.join([str(reading.path), reading.beside('.h5ad')])}"
        yield Advice(command="convert", works=True, line=line)
        yield from _on_corpora(reading)
        yield from _none(ON_CELLS[:-1], "for h5ad files only: convert it first")
    else:
        yield from _on_cells(reading)
        yield _integrate(reading)
        if reading.logged:
            yield from _none(NEEDS_COUNTS, "needs raw counts")
        else:
            yield from _on_counts(reading)
            yield _perturb(reading)
        yield from _on_corpora(reading)


def next_line(commands: Sequence[Advice]) -> str | None:
    """Return the line to begin with.

    Parameters
    ----------
    commands
        From `advise`.
    """
    return next((each.line for each in commands if each.works and each.line), None)


def _none(commands: Sequence[str], why: str) -> Iterator[Advice]:
    yield from (Advice(command=name, works=False, why=why) for name in commands)


def _works(command: str, line: str, why: str = "") -> Advice:
    return Advice(command=command, works=True, line=line, why=why)


def _on_cells(reading: Reading) -> Iterator[Advice]:
    """Yield the commands that take counts and logarithms."""
    lost = "the read depth is lost: raw counts give the better embedding" if reading.logged else ""
    target = reading.beside(".cellfm.h5ad")
    yield _works("embed", reading.line("embed", target, empty=True), lost)
    if reading.has_empty:
        yield from _none(("annotate", "annotate train", "map build"), "refuses cells without genes of the model: filter them out first")  # fmt: skip
        return
    # Of annotate --model is an annotator, and --weights the network.
    by = [] if reading.model is None else ["--weights", reading.model]
    options = shlex.join([*by, *reading.options(model=False)])
    line = f"cellfm annotate {shlex.quote(str(reading.path))} --reference REFERENCE.h5ad --label cell_type {options}".rstrip()
    yield _works("annotate", line, "with a labelled REFERENCE.h5ad of yours")
    label, donor = reading.best("label"), reading.best("donor")
    if label is None:
        yield from _none(("annotate train", "map build"), "no column of obs looks like labels; if one is, name it by --label")  # fmt: skip
        return
    words = ["--label", label.name]
    yield _works("map build", reading.line("map build", reading.beside("-map"), *words))
    words += [] if donor is None else ["--donor-key", donor.name]
    yield _works("annotate train", reading.line("annotate train", reading.beside("-annotator"), *words))  # fmt: skip


def _integrate(reading: Reading) -> Advice:
    batch = reading.best("batch") or reading.best("donor")
    alone = [each.name for each in reading.columns if {"batch", "donor"} & set(each.roles)]
    if reading.has_empty:
        why = "refuses cells without genes of the model: filter them out first"
    elif batch is not None:
        target = reading.beside(".integrated.h5ad")
        return _works("integrate", reading.line("integrate", target, "--batch-key", batch.name))
    elif alone:
        why = f"{alone[0]} has one value only; several batches are needed"
    else:
        why = "no column of obs looks like batches or donors; if one is, name it by --batch-key"
    return Advice(command="integrate", works=False, why=why)


def _on_counts(reading: Reading) -> Iterator[Advice]:
    """Yield the commands that need raw counts and nothing else."""
    yield _works("denoise", reading.line("denoise", reading.beside(".denoised.h5ad"), scale=False, empty=True))  # fmt: skip
    options = shlex.join(["--source", str(reading.path), *reading.options(scale=False, model=False)])  # fmt: skip
    target = shlex.quote(reading.beside(".genes.h5ad"))
    yield _works("genes embed", f"cellfm genes embed {shlex.quote(reading.model or 'mini')} {target} {options}")  # fmt: skip
    yield _works("genes programs", reading.line("genes programs", "GENE_SETS.gmt", reading.beside("-programs"), scale=False), "with a GMT file of yours")  # fmt: skip


def _perturb(reading: Reading) -> Advice:
    if (column := reading.best("perturbation")) is not None:
        words = [reading.beside("-perturbations"), "--perturbation", column.name]
        if (batch := reading.best("batch")) is not None:
            words += ["--batch-key", batch.name]
        words += ["--drop-unknown"] if column.n_unknown else []
        return _works("perturb train", reading.line("perturb train", *words, scale=False))
    if (column := reading.best("perturbation without controls")) is not None:
        why = f"{column.name} names genes and no control; if there are controls, say what they are called by --control"
        return Advice(command="perturb train", works=False, why=why)
    why = "no column of obs names perturbed genes and controls"
    return Advice(command="perturb train", works=False, why=why)


def _on_corpora(reading: Reading) -> Iterator[Advice]:
    path = shlex.quote(str(reading.path))
    usual = reading.matrix in ("X", "raw/X", "layers/counts", "matrix")
    if not usual or reading.gene_names is not None:
        wanted = [] if usual else ["layer"]
        wanted += [] if reading.gene_names is None else ["gene_names"]
        why = f"needs a list of sources with the columns path and {' and '.join(wanted)}: its counts or names are not where they usually are"
        yield Advice(command="corpus build", works=False, why=why)
    elif reading.kind == "log1p":
        why = "takes counts back where that is provably exact, and else refuses"
        yield _works("corpus build", f"cellfm corpus build {path} corpus/ --recover", why)
    elif reading.kind == "counts":
        yield _works("corpus build", f"cellfm corpus build {path} corpus/", "corpus add, where there is a corpus")  # fmt: skip
