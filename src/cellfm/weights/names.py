"""What each tensor is called here and in the published MindSpore model, and the shape of the network behind a list of tensors.

Two layouts exist. The pretrained model names its parts directly; a model with the annotation head puts the backbone under
``extractor.`` and adds ``cluster_emb``, ``query_layer.*`` and ``classifier``. Dense weights are (out, in) in both frameworks:
only shapes of single vectors differ, (1, 1, d) there and (d,) here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cellfm.config.model import ModelConfig
from cellfm.errors import VocabularyError, WeightsError

Shape = tuple[int, ...]

BACKBONE = "extractor."
_GENE_ZERO, _CELL_ZERO = "value_dec.zero_logit.", "cellwise_dec.zero_logit."
N_QUERY_LAYERS = 2  # of the published annotation head
HEAD_WIDTH = 32  # of both released models; no tensor's shape tells it

UNUSED_WITH_HEAD = ("mask_embedding", "zero_embedding")
"""Embeddings of the pretraining objective: an annotation model may come without them, and never reads them."""

_RETENTION = {"query": "q", "key": "k", "value": "v", "gate": "u", "out": "o"}
_GLU = {"left": "u", "right": "v", "out": "o"}
_NORM = {"weight": "gamma", "bias": "beta"}


@dataclass(frozen=True, slots=True)
class Name:
    """One tensor under both names."""

    ours: str
    theirs: str
    shape: Shape
    """Shape here."""
    their_shape: Shape


def name_table(config: ModelConfig) -> tuple[Name, ...]:
    """Return every tensor of a network in the order of MindSpore's own files."""
    backbone = _backbone(config)
    if not config.n_clusters:
        return tuple(backbone)
    dim = config.dim
    return (
        _same("annotation.clusters", "cluster_emb", config.n_clusters, dim),
        *(replace(name, theirs=BACKBONE + name.theirs) for name in backbone),
        *(name for j in range(N_QUERY_LAYERS) for name in _query_layer(j, dim)),
        _same("annotation.classifier.weight", "classifier.weight", 1, dim),
    )


def infer_config(shapes: Mapping[str, Shape], *, n_genes: int, n_heads: int | None) -> ModelConfig:
    """Read the shape of the network off MindSpore names and shapes.

    Parameters
    ----------
    shapes
        Shape of every weight of the file by MindSpore name.
    n_genes
        Genes of the vocabulary; must fit the rows of the embedding table.
    n_heads
        Retention heads; None takes ``dim / 32`` where the width is that of the released models.
    """
    prefix = BACKBONE if f"{BACKBONE}gene_emb" in shapes else ""
    backbone = {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }
    n_rows, dim = _embedding_shape(backbone)
    _fit_vocabulary(n_rows, n_genes)
    return ModelConfig(
        n_genes=n_genes,
        dim=dim,
        n_layers=_n_layers(backbone),
        n_heads=_heads(dim, n_heads),
        value_bins=backbone.get("value_enc.value_enc.w1.weight", (256, 1))[0],
        depth_tokens="ST_emb" in backbone,
        decoders=any(name.startswith(("value_dec.", "cellwise_dec.")) for name in backbone),
        zero_heads=(zero_heads := any(_GENE_ZERO in name for name in backbone)),
        detection_head=not zero_heads and any(_CELL_ZERO in name for name in backbone),
        lora_rank=backbone.get("encoder.0.attn.lora_q.A.weight", (0,))[0],
        n_clusters=shapes["cluster_emb"][0] if prefix and "cluster_emb" in shapes else 0,
    )


def check_tensors(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], *, source: str
) -> None:
    """Refuse a set of tensors that is not exactly the one expected, and list every difference."""
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in found]
    extra = [f"{name} {list(found[name])}" for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name])} instead of {list(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    kinds = (
        ("missing", missing),
        ("not part of this model", extra),
        ("of the wrong shape", misshapen),
    )
    lines = [f"  {len(names)} {kind}: {_listed(names)}" for kind, names in kinds if names]
    if lines:
        listed = "\n".join(lines)
        msg = (
            f"The tensors of {source} do not fit the network:\n{listed}\n"
            "Check that the checkpoint is whole and of this model; another file of it may hold the weights."
        )
        raise WeightsError(msg)


def _listed(names: list[str], *, most: int = 12) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _embedding_shape(backbone: Mapping[str, Shape]) -> tuple[int, int]:
    shape = backbone.get("gene_emb")
    if shape is None or len(shape) != 2 or 0 in shape:
        msg = (
            f"This is no CellFM checkpoint: expected a gene table 'gene_emb' of shape [rows, width], found "
            f"{'none' if shape is None else list(shape)} among {len(backbone)} tensors ({_listed(list(backbone), most=5)}). Check the path."
        )
        raise WeightsError(msg)
    return shape[0], shape[1]


def _fit_vocabulary(n_rows: int, n_genes: int) -> None:
    expected = -(-(n_genes + 1) // 8) * 8
    if n_rows != expected:
        msg = (
            f"The gene list has {n_genes:,} genes, which need {expected:,} rows (padding row, then rounded up to a multiple "
            f"of 8), but the gene table of the checkpoint has {n_rows:,} rows. Of the two lists published with the official "
            "weights, the one of 24,078 genes belongs to 24,080 rows (800M) and the one of 27,855 genes to 27,856 rows (80M). Give the gene list that belongs to the checkpoint (--genes)."
        )
        raise VocabularyError(msg)


def _n_layers(backbone: Mapping[str, Shape]) -> int:
    numbers = [
        part[1] for name in backbone if (part := name.split("."))[0] == "encoder" and len(part) > 2
    ]
    found = [int(number) for number in numbers if number.isdecimal() and len(number) < 5]
    if not found:
        msg = "This is no CellFM checkpoint: it has a gene table but no layer ('encoder.0.…'). Check the path."
        raise WeightsError(msg)
    return max(found) + 1


def _heads(dim: int, n_heads: int | None) -> int:
    if n_heads is not None:
        return n_heads
    if dim < 1024 or dim % HEAD_WIDTH:
        msg = (
            f"The number of retention heads cannot be read from a checkpoint, and a width of {dim} is not that of a released "
            "model (1,536, with 48 heads of width 32). Pass n_heads (--heads) as it was when the model was trained."
        )
        raise WeightsError(msg)
    return dim // HEAD_WIDTH


def _backbone(config: ModelConfig) -> Iterator[Name]:
    dim, bins = config.dim, config.value_bins
    yield _same("gene_embedding.weight", "gene_emb", config.n_rows, dim)
    if config.depth_tokens:
        yield Name("depth_embedding", "ST_emb", (2, dim), (1, 2, dim))
    yield Name("cls", "cls_token", (dim,), (1, 1, dim))
    yield Name("zero_embedding", "zero_emb", (dim,), (1, 1, dim))
    yield Name("mask_embedding", "value_enc.mask_emb", (dim,), (1, 1, dim))
    yield from _value_encoder("value_encoder", "value_enc.value_enc", dim, bins)
    if config.depth_tokens:
        yield from _value_encoder("depth_encoder", "ST_enc", dim, bins)
    for i in range(config.n_layers):
        yield from _layer(i, dim, config.lora_rank)
    if config.decoders:
        yield from _decoders(
            dim, zero_heads=config.zero_heads, detection_head=config.detection_head
        )


def _value_encoder(ours: str, theirs: str, dim: int, bins: int) -> Iterator[Name]:
    yield Name(f"{ours}.alpha", f"{theirs}.a", (1,), (1, 1))
    yield _same(f"{ours}.first.weight", f"{theirs}.w1.weight", bins, 1)
    yield _same(f"{ours}.second.weight", f"{theirs}.w3.weight", bins, bins)
    yield _same(f"{ours}.table.weight", f"{theirs}.table.weight", dim, bins)


def _layer(i: int, dim: int, rank: int) -> Iterator[Name]:
    ours, theirs = f"layers.{i}", f"encoder.{i}"
    yield from _adapters(f"{ours}.retention", f"{theirs}.attn", _RETENTION, dim=dim, rank=rank)
    yield from _projections(f"{ours}.retention", f"{theirs}.attn", _RETENTION, dim)
    yield from _projections(f"{ours}.glu", f"{theirs}.ffn", _GLU, dim)
    yield from _adapters(f"{ours}.glu", f"{theirs}.ffn", _GLU, dim=dim, rank=rank)
    yield from _norms(ours, theirs, 2, dim)


def _query_layer(j: int, dim: int) -> Iterator[Name]:
    ours, theirs = f"annotation.layers.{j}", f"query_layer.{j}"
    yield from _projections(f"{ours}.self_retention", f"{theirs}.attn1", _RETENTION, dim)
    yield from _projections(f"{ours}.cross_retention", f"{theirs}.attn2", _RETENTION, dim)
    yield from _projections(f"{ours}.glu", f"{theirs}.ffn", _GLU, dim)
    yield from _norms(ours, theirs, 3, dim)


def _projections(ours: str, theirs: str, names: Mapping[str, str], dim: int) -> Iterator[Name]:
    for our, their in names.items():
        yield _same(f"{ours}.{our}.weight", f"{theirs}.{their}_proj.weight", dim, dim)


def _adapters(
    ours: str, theirs: str, names: Mapping[str, str], *, dim: int, rank: int
) -> Iterator[Name]:
    for our, their in names.items() if rank else ():
        yield _same(f"{ours}.{our}.lora_a", f"{theirs}.lora_{their}.A.weight", rank, dim)
        yield _same(f"{ours}.{our}.lora_b", f"{theirs}.lora_{their}.B.weight", dim, rank)


def _norms(ours: str, theirs: str, n_norms: int, dim: int) -> Iterator[Name]:
    for k in range(1, n_norms + 1):
        for our, their in _NORM.items():
            yield _same(f"{ours}.norm{k}.{our}", f"{theirs}.post_norm{k}.{their}", dim)


def _decoders(dim: int, *, zero_heads: bool, detection_head: bool) -> Iterator[Name]:
    yield _same("gene_decoder.first.weight", "value_dec.w1.weight", dim, dim)
    yield _same("gene_decoder.second.weight", "value_dec.w2.weight", 1, dim)
    for k, n_out in ((0, dim), (2, dim), (4, 1)) if zero_heads else ():
        yield _same(f"gene_zero_decoder.{k}.weight", f"{_GENE_ZERO}{k}.weight", n_out, dim)
        yield _same(f"gene_zero_decoder.{k}.bias", f"{_GENE_ZERO}{k}.bias", n_out)
    yield _same("cell_decoder.map.weight", "cellwise_dec.map.weight", dim, dim)
    if zero_heads or detection_head:
        yield _same("cell_zero_decoder.weight", f"{_CELL_ZERO}weight", dim, dim)
        yield _same("cell_zero_decoder.bias", f"{_CELL_ZERO}bias", dim)


def _same(ours: str, theirs: str, *shape: int) -> Name:
    return Name(ours, theirs, shape, shape)
