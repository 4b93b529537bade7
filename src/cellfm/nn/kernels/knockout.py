"""States of one cell with one gene taken out, put in or changed, for many genes: exact, sharing what the edits share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM, Layout
from cellfm.nn.kernels.cell_state import InferenceLayer
from cellfm.nn.retention import feature_map, rms_normalise

EDIT_ROWS = 2048
"""Rows of edited cells that are computed together, unless the caller says otherwise."""
CANCELLED = 16.0
"""A subtracted term so many times larger than what it leaves costs more than four of float32's 24 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edits:
    """Changes of one cell, each by itself: a gene goes, a gene comes, or both, which is a new value when it is the same gene.

    Attributes
    ----------
    removed
        Place of the gene that goes among the genes of the cell; -1 for none.
    added
        Token of the gene that comes; None if none does in any edit.
    value
        Its ``log1p(count / depth × 10⁴)``; None likewise.
    """

    removed: Int[Tensor, " edit"]
    added: Int[Tensor, " edit"] | None = None
    value: Float[Tensor, " edit"] | None = None

    def __len__(self) -> int:
        """Return the number of edits."""
        return len(self.removed)

    def to(self, device: torch.device | str) -> "Edits":
        """Copy to a device."""
        removed, added, value = (
            None if part is None else part.to(device)
            for part in (self.removed, self.added, self.value)
        )
        assert removed is not None
        return Edits(removed=removed, added=added, value=value)

    def cut(self, n: int) -> list["Edits"]:
        """Return the edits in runs of at most `n`."""
        none = [None] * len(self.removed.split(n))
        added = none if self.added is None else self.added.split(n)
        value = none if self.value is None else self.value.split(n)
        return [
            Edits(removed=r, added=a, value=v)
            for r, a, v in zip(self.removed.split(n), added, value, strict=True)
        ]


class EditedStates:
    r"""State of [CLS] after each of many edits of a cell; the numbers of ``network.encode(edited, wanted="cell")``.

    An edit takes a token out of the set or puts one in. All other values and the depth tokens stay those of the whole
    cell: nothing is normalised anew, so that what is seen is the token's own effect and not that of a smaller total.

    Shared by all edits of a cell, exactly, because an input row depends on its own gene and value alone:

    - Queries, keys, values and gates of the first layer, and its sums :math:`S_h = \sum_j \phi(k_{jh})^\top v_{jh}`. Without gene g
      :math:`S_h' = S_h - \phi(k_{gh})^\top v_{gh}`, one outer product; a gene that comes adds one. Row i then reads
      :math:`\phi(q_{ih}) S_h' = o_{ih} - (\phi(q_{ih}) \cdot \phi(k_{gh}))\, v_{gh}`.
    - In a network of one layer that leaves a single row, [CLS], to each edit.

    Where the product taken away is `CANCELLED` times what it leaves in a row of the sum (a gene that is heard there alone),
    the difference would be rounding noise, which the norm after it would blow up to full size; the sum of such a head is
    made anew without the gene.

    Not shared, because from here on every row differs: the norm of each head, which is no linear map, makes the
    first layer's output of each row an edit's own, and with it the output and gated unit of that layer (4 products a row
    of 8), all of the layers between (8), and the last layer's keys that [CLS] asks for (about ½ of 8, as in
    :class:`~cellfm.nn.kernels.cell_state.CellStates`). With two layers 4½ products a row and edit are left of the 10
    of ``encode(wanted="cell")``.

    Parameters
    ----------
    network
        Trained network; later changes of its weights are not seen.
    """

    @torch.no_grad()
    def __init__(self, network: CellFM) -> None:
        self.network = network
        kinds = [_FirstLayer] + [_EditedLayer] * (len(network.encoder_layers) - 1)
        self.layers = [
            kind(layer, network.config.n_heads, torch.float32)
            for kind, layer in zip(kinds, network.encoder_layers, strict=True)
        ]

    @torch.inference_mode()
    def __call__(
        self, cell: CellBatch, edits: Edits, *, row_budget: int = EDIT_ROWS
    ) -> Float[Tensor, "edit dim"]:
        """Return the state of the cell after each edit.

        Parameters
        ----------
        cell
            One cell without hidden or zero genes, on the device of the network.
        edits
            What to change, on the same device.
        row_budget
            Rows computed together; memory grows with it, at least one edit is computed at a time.

        Raises
        ------
        ValueError
            There is not exactly one cell, genes are hidden or zero, or a place is not one of its genes.
        """
        _check(cell, edits)
        x = self.network.embed_rows(cell, Layout.of(cell, self.network.config.n_prefix))
        first = self.layers[0]
        assert isinstance(first, _FirstLayer)
        shared = first.share(x, n_asked=1 if len(self.layers) == 1 else len(x))
        step = max(1, row_budget // (len(x) + 1))
        states = [self._states(shared, part) for part in edits.cut(step)] if len(edits) else []
        return torch.cat(states) if states else x.new_empty(0, x.shape[1])

    def _states(self, shared: "_Shared", edits: Edits) -> Float[Tensor, "edit dim"]:
        """Return the states of so many edits as fit in memory together."""
        first, *between = self.layers
        assert isinstance(first, _FirstLayer)
        gone = torch.where(edits.removed < 0, -1, edits.removed + self.network.config.n_prefix)
        new = None
        if edits.added is not None and edits.value is not None:
            values = self.network.value_encoder(edits.value)
            new = self.network.gene_embedding(edits.added) + values
        x = first.edited(shared, gone, new)
        if not between:
            return x[:, 0]
        *between, last = between
        for layer in between:
            x = layer.without(x, gone)
        return last.cls_states(x, gone)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shared:
    """What the first layer computes once for a cell: keys and values of all rows, the rest for the rows asked for."""

    x: Float[Tensor, "row dim"]
    query: Float[Tensor, "head row d"]
    key: Float[Tensor, "head all d"]
    value: Float[Tensor, "head all d"]
    sums: Float[Tensor, "head d d"]
    gate: Float[Tensor, "row head d"]


class _EditedLayer(InferenceLayer):
    """A layer whose cells are the edited versions of one cell: equally long, one row of each not heard."""

    def without(
        self, x: Float[Tensor, "edit row dim"], gone: Int[Tensor, " edit"]
    ) -> Float[Tensor, "edit row dim"]:
        """Return the next state of every row; the removed one is no key (its own state is never read)."""
        flat = x.flatten(0, 1)
        query, key, value, gate = self.project(flat)
        some = (gone >= 0).nonzero().squeeze(1)
        value.view(x.shape)[some, gone[some]] = 0.0  # whatever the feature map makes of its key
        lengths = (x.shape[1],) * len(x)
        return self.advance(flat, (query, key, value, gate), lengths).view(x.shape)

    def cls_states(
        self, x: Float[Tensor, "edit row dim"], gone: Int[Tensor, " edit"]
    ) -> Float[Tensor, "edit dim"]:
        """Return the next state of [CLS] alone, for all edits in few products; compare `InferenceLayer.cell_states`."""
        cls = x[:, 0]
        query, key, value, gate = self.exact
        q = feature_map(functional.linear(cls, query), inplace=True)
        # Edits change [CLS] little: nearly the same places are asked for in all of them.
        asked = (q != 0).any(0).nonzero().squeeze(1)
        keys = feature_map(functional.linear(x, key[asked]), inplace=True)
        head = asked.div(x.shape[2] // self.n_heads, rounding_mode="floor")
        by_head = q.new_zeros(len(x), len(asked), self.n_heads)
        by_head[:, torch.arange(len(asked), device=q.device), head] = q[:, asked]
        weights = torch.bmm(keys, by_head)
        some = (gone >= 0).nonzero().squeeze(1)
        weights[some, gone[some]] = 0.0
        sums = torch.bmm(weights.mT, x).transpose(0, 1)
        per_head = torch.unflatten(value, 0, (self.n_heads, -1))
        mixed = rms_normalise(torch.bmm(sums, per_head.mT)).transpose(0, 1).flatten(1)
        opened = functional.silu(functional.linear(cls, gate))
        return self._finish(cls, mixed.mul_(opened), self.exact_outputs)


class _FirstLayer(_EditedLayer):
    """The layer whose projections all edits share."""

    def share(self, x: Float[Tensor, "row dim"], *, n_asked: int) -> _Shared:
        """Compute what does not depend on the edit, for queries of the first `n_asked` rows."""
        asked = x[:n_asked]
        q, _, _, gate = self._activated(asked)
        _, k, v, _ = self._activated(x)
        return _Shared(x=asked, query=q, key=k, value=v, sums=torch.bmm(k.mT, v), gate=gate)

    def edited(
        self, shared: _Shared, gone: Int[Tensor, " edit"], new: Float[Tensor, "edit dim"] | None
    ) -> Float[Tensor, "edit row dim"]:
        """Return the next state of the rows asked for after each edit; new rows come last, unless only [CLS] is asked for."""
        sums = _without(shared, gone)
        comes = None if new is None else self._activated(new)
        if comes is not None:
            _, k, v, _ = comes
            sums += k.permute(1, 0, 2)[..., None] * v.permute(1, 0, 2)[:, :, None]
        mixed = sums.new_empty(len(gone), *shared.gate.shape)
        for one, own in zip(mixed, sums, strict=True):  # an edit at a time stays in the cache
            read = rms_normalise(torch.bmm(shared.query, own))
            torch.mul(read.transpose(0, 1), shared.gate, out=one)
        x = shared.x.expand(len(gone), *shared.x.shape)
        rows = self._finish(x.reshape(-1, x.shape[2]), mixed.view(-1, x.shape[2]), self.outputs)
        rows = rows.view(x.shape)
        if new is None or comes is None or len(shared.x) == 1:
            return rows
        query, _, _, gate = comes
        read = rms_normalise(torch.einsum("hed,ehdf->ehf", query, sums))
        row = self._finish(new, (read * gate).flatten(1), self.outputs)
        return torch.cat([rows, row[:, None]], dim=1)

    def _activated(self, x: Float[Tensor, "row dim"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return queries, keys and values (head, row, d) after the feature map where it belongs, and open gates (row, head, d)."""
        query, key, value, gate = self.project(x)
        query, key = feature_map(query, inplace=True), feature_map(key, inplace=True)
        q, k, v = (self._heads(part) for part in (query, key, value))
        return q, k, v, torch.unflatten(functional.silu(gate), 1, (self.n_heads, -1))


def _without(shared: _Shared, gone: Int[Tensor, " edit"]) -> Float[Tensor, "edit head d d"]:
    """Return the sums without a row each; -1 takes nothing away."""
    alive = (gone >= 0)[:, None, None]
    k, v = (part[:, gone].transpose(0, 1) * alive for part in (shared.key, shared.value))
    taken = k[..., None] * v[:, :, None]
    sums = shared.sums - taken
    norm = torch.linalg.vector_norm
    lost = (norm(taken, dim=-1) > CANCELLED * norm(sums, dim=-1)).any(-1)
    for edit, head in lost.nonzero().tolist():
        keys = shared.key[head].clone()
        keys[gone[edit]] = 0.0
        sums[edit, head] = keys.T @ shared.value[head]
    return sums


def _check(cell: CellBatch, edits: Edits) -> None:
    if cell.n_cells != 1 or cell.hidden is not None or cell.zero is not None:
        msg = f"EditedStates takes one plain cell, but got {cell.n_cells} cells or hidden or zero genes; pass batch.cells(i, i + 1)."
        raise ValueError(msg)
    if (edits.added is None) != (edits.value is None):
        msg = "An edit that puts a gene in needs its token and its value; only one of Edits.added and Edits.value was given."
        raise ValueError(msg)
    if (
        len(edits)
        and not -1 <= int(edits.removed.min()) <= int(edits.removed.max()) < cell.n_tokens
    ):
        low, high = int(edits.removed.min()), int(edits.removed.max())
        msg = f"Edits.removed goes from {low} to {high}; places of this cell's genes are 0 to {cell.n_tokens - 1}, -1 for none."
        raise ValueError(msg)
