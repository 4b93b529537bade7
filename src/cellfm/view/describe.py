"""What the page shows of a file before any cell: its tables, its layouts, and the labels it has."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.view.colours import UNKNOWN, column_kind

if TYPE_CHECKING:
    from cellfm.view.cells import Cells
    from cellfm.view.options import ViewOptions
    from cellfm.view.session import Opened

UMAP_OF, PCA_OF = "UMAP of ", "PCA of "


def describe_file(opened: "Opened", options: "ViewOptions") -> dict[str, object]:
    """Return what the page shows of a file before any cell.

    Parameters
    ----------
    opened
        The file.
    options
        What the user chose.
    """
    cells = opened.cells
    layouts = _layouts(cells, options.embedding)
    columns = [{"name": str(n), "kind": column_kind(cells.obs[n])} for n in cells.obs.columns]
    return {
        "file": opened.number,
        "name": opened.name,
        "written": opened.written,
        "cells": cells.n_cells,
        "genes": len(cells.var),
        "embedding": options.embedding if options.embedding in cells.keys else None,
        "wanted": options.embedding,
        "keys": list(cells.keys),
        "layouts": layouts,
        "columns": columns,
        "annotations": _annotations(cells),
        "first": _first_column(cells),
    }


def _layouts(cells: "Cells", embedding: str) -> list[str]:
    """Return the ways to draw cells, best first: coordinates of the file, then UMAPs of its embeddings."""
    plane = [key for key, dim in cells.keys.items() if dim == 2]
    wide = sorted(cells.keys, key=lambda key: (key != embedding, key))
    wide = [key for key in wide if cells.keys[key] > 2]
    drawn = sorted(key for key in plane if key.startswith(("X_umap", "X_tsne")))
    others = [key for key in plane if key not in drawn]
    made = [kind + key for kind in (UMAP_OF, PCA_OF) for key in wide]
    return [*sorted(drawn, reverse=True), *made, *others]


def annotation_keys(cells: "Cells") -> list[str]:
    """Return the columns of obs that `cellfm annotate` has written labels to: those with a probability and a novelty beside them.

    Parameters
    ----------
    cells
        The file.
    """
    names = set(map(str, cells.obs.columns))
    return [
        str(name)
        for name in cells.obs.columns
        if f"{name}_probability" in names and f"{name}_novelty" in names
    ]


def _annotations(cells: "Cells") -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for key in annotation_keys(cells):
        labels = cells.obs[key].astype(str)
        probability = cells.obs[f"{key}_probability"].to_numpy(float)
        median = float(np.nanmedian(probability)) if np.isfinite(probability).any() else None
        found.append(
            {
                "name": key,
                "probability": f"{key}_probability",
                "novelty": f"{key}_novelty",
                "unknown": int((labels == UNKNOWN).sum()),
                "median": median,
            }
        )
    return found


def _first_column(cells: "Cells") -> str | None:
    """Return the column to begin with: labels of an annotation, else the first with a few groups, else any."""
    annotated = annotation_keys(cells)
    groups = [
        str(name)
        for name in cells.obs.columns
        if column_kind(cells.obs[name]) == "groups" and 1 < cells.obs[name].nunique() <= 60
    ]
    named = [name for name in groups if "type" in name.lower() or "label" in name.lower()]
    any_column = [str(name) for name in cells.obs.columns[:1]]
    return next(iter([*annotated, *named, *groups, *any_column]), None)
