"""Fine-tuning: what is trained, where it stops, what it leaves, and what it takes."""

import weakref
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from tests.cells import batch, network
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from cellfm.config import preset
from cellfm.errors import ConfigError
from cellfm.nn import CellFM, initialise
from cellfm.nn.classifier import CellClassifier, class_loss, new_head
from cellfm.nn.heads import initialise_head
from cellfm.nn.lora import add_lora, train_only_lora
from cellfm.train import NonFiniteLossError
from cellfm.train.finetune import TuneConfig, tune, tune_groups
from cellfm.train.plan import BatchShape, weight_copies
from cellfm.train.plan.finetune import (
    encoder_parameters,
    finetune_plan,
    tuning_bytes,
    tuning_copies,
)

SAVED_TOLERANCE = 0.03  # index tensors, copies of the head's weights and what it saves itself
PEAK_TOLERANCE = (
    0.2  # what a backward pass holds besides is a measured number of states, not derived
)

CELLS = batch([6, 14, 9, 20], seed=3)
CODES = torch.tensor([[0], [1], [0], [2]])
QUICK = TuneConfig(n_epochs=4, patience=4, token_budget=64)


def classifier(*, lora: int = 0, **changes) -> CellClassifier:
    net, generator = network(**changes), torch.Generator().manual_seed(0)
    head = new_head("mlp", net, 3)
    initialise_head(head, generator)
    if lora:
        add_lora(net, lora, generator)
        train_only_lora(net)
    return CellClassifier(net, [head])


@dataclass
class Same:
    """The same cells in each of `n` batches of every epoch."""

    n: int = 3
    asked: list[int] = field(default_factory=list)

    def n_batches(self, epoch):
        return self.n

    def epoch(self, epoch):
        self.asked.append(epoch)
        for _ in range(self.n):
            yield CELLS, torch.arange(4)


def loss_of(module):
    def loss(cells, rows):
        return class_loss(module.logits(cells), CODES[rows], [torch.ones(3)])

    return loss


def run(module, *, config=QUICK, validate=None, train=None, **options):
    return tune(
        module, loss_of(module), train=train or Same(), validate=validate, config=config, **options
    )


def copy_of(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_it_learns_and_says_what_it_saw():
    module, told = classifier(), []
    result = run(
        module,
        config=replace(QUICK, n_epochs=10, lr=1e-2, head_lr=1e-2),
        progress=lambda *at: told.append(at),
    )
    assert result.history[-1].loss < 0.2 * result.history[0].loss
    assert [record.epoch for record in result.history] == list(range(10))
    assert told == [(i + 1, 10) for i in range(10)]
    assert result.best_epoch == 9
    assert result.best is None
    assert not module.training


def test_the_best_epoch_comes_back_and_patience_ends_it():
    module, seen = classifier(), []
    values = iter([4.0, 3.0, 1.0, 2.0, 1.0, 1.5, 0.0])  # the first before training

    def validate():
        assert not module.training
        assert not torch.is_grad_enabled()
        seen.append(copy_of(module))
        return next(values)

    train = Same()
    result = run(
        module, config=replace(QUICK, n_epochs=9, patience=3), validate=validate, train=train
    )
    assert train.asked == [0, 1, 2, 3, 4]  # an equal value is no improvement
    assert (result.best_epoch, result.best) == (1, 1.0)
    assert [record.validation for record in result.history] == [3.0, 1.0, 2.0, 1.0, 1.5]
    now = copy_of(module)
    assert all(torch.equal(now[name], seen[2][name]) for name in now)
    assert any(not torch.equal(now[name], seen[3][name]) for name in now)
    assert result.start == 4.0


def test_what_training_only_makes_worse_stays_as_it_was():
    module = classifier()
    before = copy_of(module)
    values = iter([1.0, 2.0, 3.0, 0.0])
    result = run(
        module, config=replace(QUICK, n_epochs=9, patience=2), validate=lambda: next(values)
    )
    assert (result.best_epoch, result.best, len(result.history)) == (-1, 1.0, 2)
    now = copy_of(module)
    assert all(torch.equal(now[name], before[name]) for name in now)
    values = iter([1.0, 2.0, 3.0, 0.0])
    result = run(
        module,
        config=replace(QUICK, n_epochs=2),
        validate=lambda: next(values),
        keep_start=False,
    )
    assert (result.start, result.best_epoch, result.best) == (1.0, 0, 2.0)


def test_two_runs_are_one_and_the_caller_keeps_his_generator():
    config = replace(QUICK, lr=1e-2)
    state = torch.get_rng_state()
    modules = [classifier(dropout=0.4) for _ in range(3)]
    for module, seed in zip(modules, (1, 1, 2), strict=True):
        run(module, config=replace(config, seed=seed))
        torch.rand(3)  # what others draw in between does not matter
        torch.set_rng_state(state)
    one, same, other = map(copy_of, modules)
    assert all(torch.equal(one[name], same[name]) for name in one)
    # the seed decides the dropout
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_recomputed_layers_train_the_same_and_are_put_back():
    plain, again = classifier(dropout=0.4), classifier(dropout=0.4)
    run(plain)
    run(again, config=replace(QUICK, activation_checkpointing=True))
    for name, value in copy_of(plain).items():
        torch.testing.assert_close(copy_of(again)[name], value, rtol=1e-5, atol=1e-6)
    assert all("forward" not in vars(layer) for layer in again.network.encoder_layers)


def test_bf16_leaves_single_precision_weights():
    module = classifier()
    run(module, config=replace(QUICK, precision="bf16"))
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_only_what_requires_a_gradient_changes():
    module = classifier(lora=2)
    before = copy_of(module)
    run(module, config=replace(QUICK, lora_lr=1e-2))
    changed = {name for name, p in copy_of(module).items() if not torch.equal(p, before[name])}
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert changed <= trained
    assert {name for name in changed if "lora_b" in name}
    assert {name for name in changed if name.startswith("heads.")}


def test_rows_of_absent_genes_stay():
    """Full fine-tuning pulls no gene that never occurs towards zero."""
    module = classifier()
    before = copy_of(module)["network.gene_embedding.weight"]
    run(module, config=replace(QUICK, lr=1e-2, weight_decay=0.9))
    after = copy_of(module)["network.gene_embedding.weight"]
    there = torch.zeros(len(after), dtype=torch.bool)
    there[CELLS.gene] = True
    assert 0 < int(there.sum()) < len(after) - 1
    assert torch.equal(after[~there], before[~there])
    assert (after[there] != before[there]).any(dim=1).all()


def test_rates_and_decay_by_what_a_parameter_is():
    module = classifier(lora=2)
    module.network.gene_embedding.weight.requires_grad_(requires_grad=True)
    module.network.encoder_layers[0].norm1.weight.requires_grad_(requires_grad=True)
    config = TuneConfig(lr=1.0, lora_lr=2.0, head_lr=3.0, weight_decay=0.5)
    name_of = {id(p): name for name, p in module.named_parameters()}
    found = {
        name_of[id(p)]: (group["peak"], group["weight_decay"])
        for group in tune_groups(module, config)
        for p in group["params"]
    }
    assert found["network.layers.0.glu.out.lora_a"] == (2.0, 0.5)
    assert found["network.gene_embedding.weight"] == (1.0, 0.0)
    assert found["network.layers.0.norm1.weight"] == (1.0, 0.0)
    assert found["heads.0.first.weight"] == (3.0, 0.5)
    assert found["heads.0.first.bias"] == (3.0, 0.0)
    assert set(found) == {name for name, p in module.named_parameters() if p.requires_grad}


def test_warm_up_then_half_a_cosine(monkeypatch):
    asked = []

    def spy(step, *, peak, schedule):
        asked.append((step, peak, schedule))
        return peak

    monkeypatch.setattr("cellfm.train.finetune.learning_rate", spy)
    run(classifier(), config=replace(QUICK, warmup=0.1), train=Same(n=5))
    schedule = asked[0][2]
    assert (schedule.kind, schedule.n_steps, schedule.warmup_steps) == ("cosine", 20, 2)
    assert schedule.final_fraction == 0.0
    assert [step for step, peak, _ in asked if peak == QUICK.lr][::2] == list(range(20))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_it(bad):
    module = classifier()
    before = copy_of(module)

    def loss(cells, rows):
        return loss_of(module)(cells, rows) * bad

    with pytest.raises(NonFiniteLossError, match="Lower the learning rates"):
        tune(module, loss, train=Same(), validate=None, config=QUICK)
    after = copy_of(module)
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_a_validation_loss_that_is_no_number_ends_it():
    with pytest.raises(NonFiniteLossError, match="validation loss before training is nan"):
        run(classifier(), validate=lambda: float("nan"))
    values = iter([1.0, float("nan")])
    with pytest.raises(NonFiniteLossError, match="validation loss after epoch 1 is nan"):
        run(classifier(), validate=lambda: next(values))


def test_nothing_to_train_is_refused():
    module = classifier()
    module.requires_grad_(requires_grad=False)
    with pytest.raises(ConfigError, match="No parameter of the module requires a gradient"):
        run(module)


@pytest.mark.parametrize(
    "change",
    [
        {"n_epochs": 0},
        {"patience": 0},
        {"token_budget": 0},
        {"seed": -1},
        {"max_genes": 0},
        {"lr": 0.0},
        {"lora_lr": float("inf")},
        {"clip": 0.0},
        {"weight_decay": -1.0},
        {"warmup": 1.5},
    ],
)
def test_settings_that_cannot_work_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        TuneConfig(**change)


# Bytes

SMALL = replace(preset("mini"), n_genes=300, n_layers=4, detection_head=False)
DEBUG = preset("debug")


def built(config, *, lora: bool, recompute: bool = False) -> CellClassifier:
    generator = torch.Generator().manual_seed(0)
    net = initialise(CellFM(config), generator)
    if lora:
        add_lora(net, 8, generator)
        train_only_lora(net)
    head = new_head("mlp", net, 5)
    initialise_head(head, generator)
    if recompute:
        for layer in net.encoder_layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return CellClassifier(net, [head]).train()


def step(module: CellClassifier, cells, precision: str = "fp32") -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        logits = module.logits(cells)[0]
    return nn.functional.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.int64))


def plan_of(config, cells, *, lora: bool, precision: str, recompute: bool):
    return finetune_plan(
        config,
        strength="lora" if lora else "finetune",
        rank=8,
        token_budget=cells.n_tokens,
        precision=precision,
        activation_checkpointing=recompute,
        genes_per_cell=cells.n_tokens / cells.n_cells,
        n_classes=5,
        device="cpu",
    )


def n_bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("lora", [False, True], ids=["finetune", "lora"])
def test_states_are_as_large_as_planned(lora):
    module, cells = built(DEBUG, lora=lora), batch([80] * 4, n_genes=DEBUG.n_genes)
    optimizer = torch.optim.AdamW(tune_groups(module, TuneConfig()))
    step(module, cells).backward()
    optimizer.step()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    moments = [
        state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    plan = plan_of(DEBUG, cells, lora=lora, precision="fp32", recompute=False)
    assert plan.gradients == n_bytes(gradients)
    assert plan.optimiser == n_bytes(moments)
    assert plan.weights == n_bytes(module.parameters())
    assert plan.best_epoch == plan.gradients
    if not lora:
        head = n_bytes(module.heads.parameters()) // 4
        assert plan.n_trained == encoder_parameters(DEBUG) + head


class Saved:
    """Bytes that autograd saves, each storage once, parameters left out."""

    def __init__(self, module) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.kept = {}

    def pack(self, tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in self.own:
            self.kept[place] = tensor  # kept alive, so that no place is used twice
        return tensor

    @property
    def total(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True], ids=["finetune", "lora"])
def test_saved_bytes_are_those_autograd_saves(lora, precision, recompute):
    module = built(SMALL, lora=lora, recompute=recompute)
    cells = batch([80] * 14, n_genes=SMALL.n_genes)
    saved = Saved(module)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        step(module, cells, precision)
    config = module.network.config
    copies = tuning_copies(config, precision, activation_checkpointing=False)
    if recompute:  # those of the layers are not kept
        copies -= weight_copies(config, precision) - weight_copies(config, precision, layers=False)
    if precision == "bf16":
        copies += 2 * sum(p.numel() for p in module.heads.parameters())
    shape = BatchShape(n_cells=14, n_tokens=1120, n_scored=0)
    saved_here = tuning_bytes(
        config,
        shape,
        precision=precision,
        activation_checkpointing=recompute,
        device="cpu",
    )
    assert saved_here + copies == pytest.approx(saved.total, rel=SAVED_TOLERANCE)


class Peak(TorchDispatchMode):
    """Most bytes alive at once among the tensors made inside; `there` were before."""

    def __init__(self, there) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self.note(tensor.untyped_storage())
        return made

    def note(self, storage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.drop, storage.nbytes())

    def drop(self, n_bytes: int) -> None:
        self.now -= n_bytes


def peak_of(*, lora: bool, precision: str, recompute: bool = False) -> tuple[int, float]:
    """Bytes of the second step, states included, measured and planned."""
    module = built(SMALL, lora=lora, recompute=recompute)
    cells = batch([80] * 14, n_genes=SMALL.n_genes)
    optimizer = torch.optim.AdamW(tune_groups(module, TuneConfig()))
    step(module, cells, precision).backward()
    optimizer.step()
    held = [t for p in module.parameters() for t in (p, p.grad) if t is not None]
    held += [state[m] for state in optimizer.state.values() for m in ("exp_avg", "exp_avg_sq")]
    with Peak(held) as peak:
        step(module, cells, precision).backward()
        optimizer.step()
    plan = plan_of(SMALL, cells, lora=lora, precision=precision, recompute=recompute)
    return n_bytes(held) + peak.most, plan.total


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peak_of_a_step_is_the_plan_and_lower_with_adapters(precision):
    lora, planned_lora = peak_of(lora=True, precision=precision)
    full, planned_full = peak_of(lora=False, precision=precision)
    assert lora < full
    assert planned_lora == pytest.approx(lora, rel=PEAK_TOLERANCE)
    assert planned_full == pytest.approx(full, rel=PEAK_TOLERANCE)
    again, planned_again = peak_of(lora=True, precision=precision, recompute=True)
    assert again < 0.7 * lora
    assert planned_again == pytest.approx(again, rel=PEAK_TOLERANCE)


def test_adapters_of_the_800m_network_fit_a_gpu_of_16_gigabytes():
    """With activation checkpointing: without it the activations of 6,144 genes alone take more."""
    plan = partial(finetune_plan, preset("800m"), rank=8, token_budget=6144, precision="bf16")
    fits = plan(strength="lora", activation_checkpointing=True)
    assert fits.total <= 16e9
    assert fits.weights < 4e9
    assert plan(strength="lora").total > 16e9
    full = plan(strength="finetune", activation_checkpointing=True)
    assert full.gradients + full.optimiser > 70 * (fits.gradients + fits.optimiser)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": "other"}, "strength is 'other'"),
        ({"rank": 0}, "rank is 0"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"genes_per_cell": 0.0}, "genes_per_cell 0.0"),
    ],
)
def test_plans_that_make_no_sense_are_refused(change, message):
    arguments = {"strength": "lora", "rank": 8, "token_budget": 1000, "precision": "fp32"} | change
    with pytest.raises(ConfigError, match=message):
        finetune_plan(DEBUG, **arguments)
