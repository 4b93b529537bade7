import json
import math
import os
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.train.conftest import TwoKinds

from cellfm.config import PretrainConfig, load, to_dict
from cellfm.errors import ConfigError, ResumeError
from cellfm.nn import masked_expression_loss, objectives
from cellfm.nn.loss import Loss, mean_square, predict_scored
from cellfm.train import NonFiniteLossError, Trainee, World, list_checkpoints
from cellfm.train.evaluate import evaluate

SHARD = "shard-00000-of-00001.safetensors"


def assert_same_run(job, one, other):
    """Same weights, moments, totals and metrics."""
    left, right = (load_file(job.newest(name) / SHARD) for name in (one, other))
    assert left.keys() == right.keys()
    assert any(name.startswith("exp_avg_sq.") for name in left)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    assert job.lines(one) == job.lines(other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_is_bit_exact(job, precision):
    job = job.changed("run", precision=precision)
    first, second = job.network(), job.network()
    whole = job.train("straight", first)
    assert (whole.step, whole.finished) == (20, True)
    # 10 is no multiple of the steps between lines, evaluations or checkpoints.
    half = job.train("parts", stop_after=10)
    assert (half.step, half.finished, half.held_out) == (10, False, ())
    torch.rand(7)  # the caller's generator has moved on in between
    assert job.train("parts", second) == replace(whole, folder=job.root / "parts")
    assert_same_run(job, "straight", "parts")
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_resume_after_a_kill_repeats_the_lost_steps(job):
    class Killed(Exception):
        pass

    def kill(now):
        if now.step == 10:
            raise Killed

    with pytest.raises(Killed):
        job.train("killed", progress=kill)
    assert job.newest("killed").name == "step-00000006"
    with job.folder("killed").metrics.open("a") as file:
        file.write('{"kind": "train", "step": 1')  # torn by the kill
    (job.folder("killed").checkpoints / ".step-00000012.partial").mkdir()
    job.train("killed")
    job.train("straight")
    assert_same_run(job, "straight", "killed")
    assert not list(job.folder("killed").checkpoints.glob(".*"))


def test_the_gene_table_starts_a_run_and_no_resumed_one(job):
    """A run goes on from its checkpoint: the table it began with is not put in again."""
    table = torch.randn(41, 16, generator=torch.Generator().manual_seed(0))
    table[5:9] = 0.0
    job.train("straight", gene_start=table)
    job.train("parts", gene_start=table, stop_after=7)
    job.train("parts", gene_start=100 * table)
    assert_same_run(job, "straight", "parts")
    job.train("without")
    losses = [job.lines(name)[0]["loss"] for name in ("straight", "without")]
    assert losses[0] != losses[1]


def test_detection_is_trained_when_it_is_asked_for(job):
    """The head moves, and the logged loss has the term in it."""
    job = job.changed("model", zero_heads=False, detection_head=True)
    job = replace(job, sampler=TwoKinds(absent=True))
    asked = job.changed("objective", detection=0.5)
    networks = job.network(), job.network()
    before = networks[0].cell_zero_decoder.weight.clone()
    asked.train("with", networks[0])
    job.train("without", networks[1])
    assert not torch.equal(networks[0].cell_zero_decoder.weight, before)
    assert torch.equal(networks[1].cell_zero_decoder.weight, before)
    one, other = (
        [line for line in job.lines(name) if line["kind"] == "train"]
        for name in ("with", "without")
    )
    assert one[0]["loss"] > one[0]["gene_loss"] + one[0]["cell_loss"] + 0.1
    assert other[0]["loss"] == pytest.approx(other[0]["gene_loss"] + other[0]["cell_loss"])
    # the settings belong to the run
    with pytest.raises(ResumeError, match=r"objective.detection \(0.5 there, 0.0 now\)"):
        job.train("with")


def test_dropout_is_on_and_belongs_to_the_seed(job):
    for name, seed in {"a": 5, "b": 5, "c": 6}.items():
        job.changed("run", seed=seed).train(name, stop_after=3)
    a, b, c = (job.lines(name)[0]["loss"] for name in "abc")
    assert a == b != c


def test_the_process_is_left_as_it_was(job):
    network, handler = job.network(), signal.getsignal(signal.SIGINT)
    before = torch.get_rng_state()
    job.train("run", network, stop_after=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert signal.getsignal(signal.SIGINT) is handler


def test_loss_falls_below_the_gene_mean(job):
    job = job.changed("model", dropout=0.0, n_layers=2, dim=32)
    job = job.changed("optim", lr=6e-3).changed("schedule", n_steps=300, warmup_steps=10)
    job = job.changed("run", log_every=50, eval_every=150)
    (score,) = job.train("run").held_out
    train = [line["loss"] for line in job.lines("run") if line["kind"] == "train"]
    assert train[-1] < 0.1 * train[0]
    assert score.gene_loss < 0.1 * score.baselines["gene_mean"]
    assert score.cell_loss < 0.5 * score.baselines["gene_mean"]
    assert [line["step"] for line in job.lines("run") if line["kind"] == "held_out"] == [150, 300]


def test_run_folder(job):
    steps = []
    job.train("run", progress=lambda now: steps.append(now.step))
    assert steps == list(range(1, 21))
    folder = job.folder("run")
    assert load(PretrainConfig, folder.path / "config.json") == job.config
    about = json.loads((folder.path / "run.json").read_text())
    assert about["vocabulary"] == "a" * 64
    assert about["versions"]["torch"] == torch.__version__
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000018", "step-00000020"]
    state = json.loads((job.newest("run") / "state.json").read_text())
    assert (state["step"], state["epoch"], state["position"]) == (20, 2, 6)
    assert state["config"] == to_dict(job.config)
    assert state["vocabulary"] == "a" * 64


def test_metrics(job):
    job.train("run")
    train = [line for line in job.lines("run") if line["kind"] == "train"]
    assert [line["step"] for line in train] == [3, 6, 9, 12, 15, 18, 20]
    assert [line["epoch"] for line in train] == [0, 0, 1, 1, 2, 2, 2]
    assert train[-1]["cells"] == 20 * 6
    assert train[-1]["tokens"] == sum(job.sampler.batch(step).n_tokens for step in range(20))
    assert train[0]["lr"] == job.config.optim.lr
    assert train[0]["loss"] == pytest.approx(train[0]["gene_loss"] + train[0]["cell_loss"])
    rest = {"grad_norm", "gene_loss", "cell_loss"}
    counted = {"cells", "tokens", "scored", "skipped"}
    assert train[0].keys() == {"kind", "step", "epoch", "lr", "loss"} | counted | rest


def test_a_finished_run_is_only_scored(job):
    once = job.train("run")
    before = job.lines("run")

    def refuse(step):
        pytest.fail("a finished run took another step")

    assert job.train("run", progress=refuse) == once
    assert job.lines("run") == before


def test_other_settings_are_refused(job):
    job.train("run", stop_after=1)
    message = (
        r"holds a run with other settings: optim.lr \(0.003 there, 1.0 now\), vocabulary \(a{12} there, b{12} now\)"
        r". Resume with the settings it began with, or choose a new folder"
    )
    with pytest.raises(ResumeError, match=message):
        replace(job, vocabulary="b" * 64).changed("optim", lr=1.0).train("run")


def test_a_network_of_another_shape_is_refused(job):
    other = job.changed("model", n_layers=1).network()
    with pytest.raises(
        ConfigError, match=r"The network is ModelConfig\(.*Build the network from config.model"
    ):
        job.train("run", other)
    assert not list(job.root.iterdir())


def test_a_loss_that_is_not_finite_changes_nothing(job):
    network, weights = job.network(), {}

    def copy(now):
        weights.update({name: x.clone() for name, x in network.state_dict().items()})

    poisoned = replace(job, sampler=replace(job.sampler, poison=(8,))).changed("run", max_skipped=0)
    message = r"Step 8: the loss is nan and the norm of its gradient nan; .* Check the counts .* lower optim.lr"
    with pytest.raises(NonFiniteLossError, match=message):
        poisoned.train("run", network, progress=copy)
    assert job.newest("run").name == "step-00000006"
    for name, x in network.state_dict().items():
        assert torch.equal(x, weights[name]), name


def test_steps_that_are_not_finite_are_skipped_and_counted(job):
    poisoned = replace(job, sampler=replace(job.sampler, poison=(4, 8, 9)))
    found = poisoned.changed("run", max_skipped=2).train("run")
    assert (found.step, found.finished, found.skipped) == (20, True, 3)
    lines = [line for line in job.lines("run") if line["kind"] == "train"]
    assert [line["skipped"] for line in lines] == [0, 1, 2, 3, 3, 3, 3]
    assert all(math.isfinite(line["loss"]) for line in lines)
    poisoned = poisoned.changed("run", max_skipped=1)
    message = r"Step 9: .*2 steps in a row were skipped, and run.max_skipped is 1. The weights"
    with pytest.raises(NonFiniteLossError, match=message):
        poisoned.train("other")


def test_skipped_steps_are_remembered_over_a_resume(job):
    poisoned = replace(job, sampler=replace(job.sampler, poison=(7, 8)))
    whole = poisoned.train("straight")
    poisoned.train("parts", stop_after=8)
    assert poisoned.train("parts") == replace(whole, folder=job.root / "parts")
    assert_same_run(job, "straight", "parts")
    strict = poisoned.changed("run", max_skipped=1)
    strict.train("strict", stop_after=8)
    with pytest.raises(NonFiniteLossError, match="Step 8"):
        strict.train("strict")


def test_the_score_of_the_untrained_network_stands_beside(job):
    trainee = Trainee.of(job.network(), masked_expression_loss, run=job.config.run, world=World())
    expected = evaluate(trainee, job.held_out, precision="fp32")
    job.train("run", stop_after=9)
    (score,) = job.train("run").held_out
    assert score.untrained_gene_loss == expected.gene_loss
    assert score.untrained_cell_loss == expected.cell_loss
    lines = [line for line in job.lines("run") if line["kind"] == "held_out"]
    assert [line["untrained_gene_loss"] for line in lines] == [expected.gene_loss] * 3
    about = json.loads((job.folder("run").path / "run.json").read_text())
    assert about["untrained"]["cells"]["gene_loss"] == expected.gene_loss
    assert lines[0]["set"] == "cells"


def test_several_held_out_sets(job):
    second = replace(job.held_out, name="donor=A", batches=job.held_out.batches[:1], baselines={})
    found = job.train("run", held_out=(job.held_out, second)).held_out
    assert [score.name for score in found] == ["cells", "donor=A"]
    assert found[0].n_scored > found[1].n_scored
    sets = [line["set"] for line in job.lines("run") if line["kind"] == "held_out"]
    assert sets == ["cells", "donor=A"] * 3


def test_progress_tells_how_it_goes(job):
    seen = []
    job.train("run", progress=seen.append)
    assert [now.n_steps for now in seen] == [20] * 20
    assert [bool(now.held_out) for now in seen] == [step in (8, 16, 20) for step in range(1, 21)]
    last = seen[-1]
    assert last.seconds_left == 0.0
    assert last.cells_per_second > 0
    assert last.scored_per_second > last.cells_per_second
    assert 0 < last.mfu < 1
    assert 0 <= last.wait_share < 1
    assert last.memory > 2**20


def test_the_result_holds_the_network(job):
    network = job.network()
    assert job.train("run", network, stop_after=1).network is network


def test_more_lanes_are_another_run_with_the_same_meaning(job):
    job = replace(job.changed("data", lanes=3), sampler=replace(job.sampler, n_lanes=3))
    job.train("run", stop_after=2)
    job.train("run")
    job.train("straight")
    assert_same_run(job, "straight", "run")
    assert [line for line in job.lines("run") if line["kind"] == "train"][-1]["cells"] == 3 * 20 * 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_signal_is_told(job, number):
    def hit(now):
        if now.step == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # batch systems repeat themselves

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as caught:
        job.train("stopped", progress=hit)
    assert caught.value.args == (number,)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert job.newest("stopped").name == "step-00000004"


@pytest.mark.parametrize("how", ["signal", "raised"])
def test_ctrl_c_writes_a_checkpoint(job, how):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(now):
        if now.step == 4 and how == "signal":
            os.kill(os.getpid(), signal.SIGINT)
        elif now.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.train("stopped", progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert job.newest("stopped").name == "step-00000004"
    job.train("stopped")
    job.train("straight")
    assert_same_run(job, "straight", "stopped")


def test_a_second_ctrl_c_does_not_wait(job, monkeypatch):
    from cellfm.train import loop

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the step went on")

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.train("run")
    assert not list_checkpoints(job.folder("run"))


def test_outside_the_main_thread(job):
    results = []
    thread = threading.Thread(target=lambda: results.append(job.train("run", stop_after=1)))
    thread.start()
    thread.join()
    assert results[0].step == 1


def test_an_objective_of_another_package_is_minimised(job, monkeypatch):
    """The gene-wise half alone, offered under a name: the cell-wise decoder is left as it was."""

    def gene_wise(config):
        share = objectives.settings(config, {"share": 1.0})["share"]

        def loss(network, batch):
            error = predict_scored(network, batch).gene.float() - batch.target[batch.scored]
            gene = mean_square(error)
            return Loss(share * gene, gene, torch.zeros_like(gene))

        return objectives.Objective(loss=loss)

    point = SimpleNamespace(name="gene_wise", value="theirs:gene_wise", load=lambda: gene_wise)
    monkeypatch.setattr(objectives, "entry_points", lambda group: [point])
    job = job.changed("objective", name="gene_wise", settings={"share": 0.5}).changed(
        "optim", weight_decay=0.0
    )
    before = job.network().state_dict()
    result = job.train("run", stop_after=9)
    lines = [line for line in job.lines("run") if line["kind"] == "train"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["gene_loss"] / 2)
    assert {line["cell_loss"] for line in lines} == {0.0}
    assert lines[-1]["gene_loss"] < lines[0]["gene_loss"]
    after = result.network.state_dict()
    decoders = [name for name in before if name.startswith("cell_decoder")]
    assert decoders
    assert all(torch.equal(before[name], after[name]) for name in decoders)
    with pytest.raises(ResumeError, match=r"objective.settings.share \(0.5 there, 0.7 now\)"):
        job.changed("objective", settings={"share": 0.7}).train("run")


def test_a_run_from_before_objectives_had_names_goes_on(job):
    job.train("run", stop_after=6)
    folder = job.folder("run")
    for path in (folder.path / "config.json", job.newest("run") / "state.json"):
        content = json.loads(path.read_text())
        config = content.get("config", content)
        del config["objective"]["name"], config["objective"]["settings"]
        path.write_text(json.dumps(content))
    assert job.train("run") == replace(job.train("straight"), folder=folder.path)
