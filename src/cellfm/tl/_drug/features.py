"""Drugs as numbers: Morgan fingerprints of their structure, a table of the user's, or nothing but their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

RADIUS, N_BITS = 2, 2048
"""ECFP4 (Rogers & Hahn, J Chem Inf Model 2010)."""
FeatureKind = Literal["morgan", "table", "identity"]
CHEM = ("rdkit",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugFeatures:
    """Features of drugs.

    Attributes
    ----------
    kind
        ``"morgan"`` bits, a ``"table"`` of the user's, or ``"identity"``: nothing is known but the name, so that nothing can be said of a
        drug that was not trained on.
    names
        Of the drugs.
    table
        Shape (drug, feature).
    scaffolds
        Bemis–Murcko scaffold of each drug, the drug's own SMILES where it has no ring; empty without structures.
    """

    kind: FeatureKind
    names: tuple[str, ...]
    table: "NDArray[np.float32]"
    scaffolds: tuple[str, ...] = ()

    @staticmethod
    def of(
        drugs: Sequence[str],
        *,
        smiles: Mapping[str, str] | None = None,
        table: "Mapping[str, NDArray[np.floating]] | None" = None,
    ) -> "DrugFeatures":
        """Make features: of structures if there are any, of a table, or of names.

        Parameters
        ----------
        drugs
            Names.
        smiles
            Structure of each.
        table
            Numbers of each, as many for all.

        Raises
        ------
        DataError
            A drug is not in the mapping, a SMILES cannot be read, or rows of the table differ in length or are not finite.
        MissingDependencyError
            Structures were given, and rdkit is missing.
        """
        names = tuple(drugs)
        given = smiles if smiles is not None else table
        lacking = sorted(set(names) - set(given)) if given is not None else []
        if lacking:
            what = "SMILES" if smiles is not None else "row of features"
            msg = f"{len(lacking)} of {len(names)} drugs have no {what}: {', '.join(lacking[:8])}{', …' if len(lacking) > 8 else ''}. Add them, or leave these drugs out."
            raise DataError(msg)
        if smiles is not None:
            made = [fingerprint(smiles[name], name) for name in names]
            return DrugFeatures(
                kind="morgan",
                names=names,
                table=np.stack([bits for bits, _ in made]),
                scaffolds=tuple(scaffold for _, scaffold in made),
            )
        if table is not None:
            return DrugFeatures(kind="table", names=names, table=_stacked(names, table))
        return DrugFeatures(
            kind="identity", names=names, table=np.eye(len(names), dtype=np.float32)
        )

    @property
    def scaffold_of(self) -> dict[str, str] | None:
        """Scaffold by drug; None without structures."""
        return dict(zip(self.names, self.scaffolds, strict=True)) if self.scaffolds else None

    def similarity(self, other: "NDArray[np.float32]") -> "NDArray[np.float64]":
        """Cosine of the features of drugs with these, shape (other, drug), 1 for proportional ones.

        Parameters
        ----------
        other
            Features of the same kind, shape (other, feature).
        """
        a, b = other.astype(np.float64), self.table.astype(np.float64)
        lengths = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        return np.divide(a @ b.T, lengths, out=np.zeros(lengths.shape), where=lengths > 0)

    def row(self, name: str, smiles: str | None = None) -> "NDArray[np.float32]":
        """Return the features of a drug, known or given by its structure.

        Parameters
        ----------
        name
            Of the drug.
        smiles
            Structure of a drug that is not known.

        Raises
        ------
        DataError
            The drug is not known, and no structure can help.
        """
        if name in self.names:
            return self.table[self.names.index(name)]
        known = f"{len(self.names)} drugs are known: {', '.join(self.names[:8])}{', …' if len(self.names) > 8 else ''}"
        if self.kind != "morgan":
            why = "trained without structures" if self.kind == "identity" else "trained on a table of features"  # fmt: skip
            msg = f"The drug {name!r} was not trained on, and the model was {why}, so nothing can be said of it. {known}. Train with smiles=… to ask about other drugs."
            raise DataError(msg)
        if smiles is None:
            msg = f"The drug {name!r} was not trained on; {known}. Give its structure (smiles=…, --smiles)."
            raise DataError(msg)
        return fingerprint(smiles, name)[0]


def fingerprint(smiles: str, name: str) -> "tuple[NDArray[np.float32], str]":
    """Return the Morgan bits of a structure, shape (2048,), and its Bemis–Murcko scaffold.

    Parameters
    ----------
    smiles
        Structure; the largest of several fragments counts, so that salts do not.
    name
        Of the drug, for messages.

    Raises
    ------
    DataError
        It cannot be read.
    MissingDependencyError
        rdkit is missing.
    """
    require(*CHEM, extra="chem")
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.Chem.Scaffolds import MurckoScaffold

    with rdBase.BlockLogs():
        largest = max(smiles.strip().split("."), key=len, default="")
        molecule = Chem.MolFromSmiles(largest)
    if molecule is None or not molecule.GetNumAtoms():
        msg = f"The SMILES of the drug {name!r}, {smiles!r}, cannot be read by rdkit. Correct it, or leave the drug out."
        raise DataError(msg)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=N_BITS)
    scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)
    bits = generator.GetFingerprintAsNumPy(molecule).astype(np.float32)
    return bits, scaffold or Chem.MolToSmiles(molecule)


def read_smiles(path: str | Path) -> dict[str, str]:
    """Read a table of two columns, the drug and its SMILES, with a line of heads; tabs or commas between them.

    Parameters
    ----------
    path
        Of the file.

    Raises
    ------
    DataError
        It is missing, has no two columns, or names a drug twice with different structures.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no file {path}; expected a table of two columns, drug and SMILES. Check the path."
        raise DataError(msg)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    separator = "\t" if lines and "\t" in lines[0] else ","
    rows = [[cell.strip() for cell in line.split(separator)] for line in lines[1:]]
    if not rows or any(len(row) < 2 or not row[0] or not row[1] for row in rows):
        msg = f"{path} is not a table of two columns, drug and SMILES, below a line of heads; write one drug a line, with a tab or comma between."
        raise DataError(msg)
    found: dict[str, str] = {}
    for drug, smiles, *_ in rows:
        if found.setdefault(drug, smiles) != smiles:
            msg = f"{path} gives the drug {drug!r} two structures, {found[drug]!r} and {smiles!r}. Keep one."
            raise DataError(msg)
    return found


def _stacked(
    names: tuple[str, ...], table: "Mapping[str, NDArray[np.floating]]"
) -> "NDArray[np.float32]":
    rows = [np.asarray(table[name], np.float32).ravel() for name in names]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or not all(np.isfinite(row).all() for row in rows):
        msg = f"The features of the drugs have the lengths {sorted(widths)}; expected finite numbers, as many for each drug. Give vectors of one length."
        raise DataError(msg)
    return np.stack(rows)
