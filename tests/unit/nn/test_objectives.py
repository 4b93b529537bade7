"""Objectives by name, ours and those of other packages."""

import pytest
import torch

from cellfm.batch import CellBatch
from cellfm.config import ObjectiveConfig
from cellfm.errors import ConfigError
from cellfm.nn import CellFM, masked_expression_loss, objectives
from cellfm.nn.loss import Loss
from cellfm.nn.objectives import Objective, make_objective, objective_names, register, settings
from tests.cells import batch, network


def nothing(network: CellFM, cells: CellBatch) -> Loss:
    zero = network.gene_embedding.weight.sum() * 0.0
    return Loss(zero, zero, zero)


def offer(config: ObjectiveConfig) -> Objective:
    assert settings(config, {"delta": 1.0})["delta"] > 0
    return Objective(loss=nothing, absent=True)


class Point:
    name, value = "nothing", "theirs:offer"

    def load(self):
        return offer


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> type[Point]:
    monkeypatch.setattr(
        objectives, "entry_points", lambda group: [Point()] if group == "cellfm.objectives" else []
    )
    monkeypatch.setattr(objectives, "_registered", {})
    return Point


def test_the_default_is_the_publication_s() -> None:
    objective = make_objective(ObjectiveConfig())
    assert not objective.absent
    net, cells = network(), batch([7, 5], masked=True)
    expected = masked_expression_loss(net, cells)
    assert torch.equal(objective.loss(net, cells).total, expected.total)


def test_its_detection_term_needs_absent_genes() -> None:
    objective = make_objective(ObjectiveConfig(detection=0.5))
    assert objective.absent
    with pytest.raises(ValueError, match="needs a batch with `absent`"):
        objective.loss(network(zero_heads=True), batch([7, 5], masked=True))


def test_an_objective_of_another_package_is_found(offered: type[Point]) -> None:
    assert objective_names() == ("masked_expression", "nothing")
    objective = make_objective(ObjectiveConfig(name="nothing", settings={"delta": 2.0}))
    assert objective == Objective(loss=nothing, absent=True)


def test_a_registered_objective_is_found(offered: type[Point]) -> None:
    register("mine", offer)
    register("mine", offer)
    assert objective_names() == ("masked_expression", "mine", "nothing")
    assert make_objective(ObjectiveConfig(name="mine")).loss is nothing
    for name in ("mine", "masked_expression"):
        with pytest.raises(ConfigError, match=f"named {name!r} already"):
            register(name, lambda _: Objective(loss=nothing))


def test_an_unknown_name_lists_the_known(offered: type[Point]) -> None:
    with pytest.raises(ConfigError, match=r"'huber'.*known: masked_expression, nothing\. Name one"):
        make_objective(ObjectiveConfig(name="huber"))


def test_an_unknown_setting_is_refused(offered: type[Point]) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'delt' .*its settings: delta\. Leave it"):
        make_objective(ObjectiveConfig(name="nothing", settings={"delt": 2.0}))
    with pytest.raises(ConfigError, match=r"no setting 'delta' .*its settings: none"):
        make_objective(ObjectiveConfig(settings={"delta": 2.0}))


def test_a_broken_package_is_named(offered: type[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self):
        msg = "No module named 'theirs'"
        raise ModuleNotFoundError(msg)

    monkeypatch.setattr(Point, "load", broken)
    with pytest.raises(ConfigError, match=r"theirs:offer.*No module named 'theirs'\. Install"):
        make_objective(ObjectiveConfig(name="nothing"))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="name an objective"):
        ObjectiveConfig(name="")
