"""Objectives by name: what ``objective.name`` of a recipe stands for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points

from cellfm.batch import CellBatch
from cellfm.config.pretrain import ObjectiveConfig
from cellfm.errors import ConfigError
from cellfm.nn.encoder import CellFM
from cellfm.nn.loss import Loss, masked_expression_loss

ENTRY_POINTS = "cellfm.objectives"
"""Group of entry points under which other packages offer objectives: each is a factory, named as recipes name it."""

LossFunction = Callable[[CellFM, CellBatch], Loss]
"""What is minimised: a function of network and batch whose `total` is a mean over the scored genes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a run minimises, and what it needs of the batches."""

    loss: LossFunction
    """Loss of a batch."""
    absent: bool = False
    """Whether batches must name, beside each scored gene, one that the cell lacks."""


ObjectiveFactory = Callable[[ObjectiveConfig], Objective]
"""Makes an objective of what a recipe says; refuses settings that it does not know (`settings`)."""


def masked_expression(config: ObjectiveConfig) -> Objective:
    """Return masked-expression recovery, :func:`~cellfm.nn.loss.masked_expression_loss`, the objective of the publication.

    Parameters
    ----------
    config
        Its `detection`; there are no settings beside it.
    """
    settings(config, {})
    loss = partial(masked_expression_loss, detection=config.detection)
    return Objective(loss=loss, absent=config.detection > 0)


_OURS: dict[str, ObjectiveFactory] = {"masked_expression": masked_expression}
_registered: dict[str, ObjectiveFactory] = {}


def register(name: str, factory: ObjectiveFactory) -> None:
    """Add an objective to this process.

    The command line finds objectives of other packages by an entry point of the group ``cellfm.objectives``.

    Parameters
    ----------
    name
        As recipes name it.
    factory
        Makes the objective.

    Raises
    ------
    ConfigError
        There is another objective of that name.
    """
    if name in _OURS or _registered.get(name, factory) is not factory:
        msg = f"There is an objective named {name!r} already; give this one another name."
        raise ConfigError(msg)
    _registered[name] = factory


def objective_names() -> tuple[str, ...]:
    """Names of all objectives: ours, registered, of other packages."""
    offered = [point.name for point in entry_points(group=ENTRY_POINTS)]
    return tuple(dict.fromkeys([*_OURS, *_registered, *sorted(offered)]))


def make_objective(config: ObjectiveConfig) -> Objective:
    """Return the objective that a recipe names.

    Parameters
    ----------
    config
        Section ``objective`` of the recipe.

    Raises
    ------
    ConfigError
        There is none of that name, its package cannot be loaded, or it does not know a setting.
    """
    factory = _OURS.get(config.name) or _registered.get(config.name) or _offered(config.name)
    if factory is None:
        msg = (
            f"objective.name is {config.name!r}, but there is no such objective; known: {', '.join(objective_names())}. Name one "
            f"of them, or install the package that offers it under the entry points {ENTRY_POINTS!r}."
        )
        raise ConfigError(msg)
    return factory(config)


def _offered(name: str) -> ObjectiveFactory | None:
    """Return the factory of another package."""
    point = next((point for point in entry_points(group=ENTRY_POINTS) if point.name == name), None)
    if point is None:
        return None
    try:
        factory: ObjectiveFactory = point.load()
    except (ImportError, AttributeError) as error:
        msg = f"The objective {name!r} ({point.value}) cannot be loaded: {error}. Install its package again, or correct the entry point."
        raise ConfigError(msg) from error
    return factory


def settings(config: ObjectiveConfig, defaults: Mapping[str, float]) -> dict[str, float]:
    """Return the settings of an objective: what the recipe says, and the defaults for the rest.

    Parameters
    ----------
    config
        Section ``objective`` of the recipe.
    defaults
        Every setting that the objective knows.

    Raises
    ------
    ConfigError
        The recipe names another.
    """
    for name in config.settings:
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            msg = f"The objective {config.name!r} has no setting {name!r} (objective.settings.{name}); its settings: {known}. Leave it out or correct the name."
            raise ConfigError(msg)
    return {**defaults, **config.settings}
