"""Recipes and overrides → frozen configs; every complaint names the file and the key."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from cellfm.config.model import ModelConfig
from cellfm.config.pretrain import PretrainConfig
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    import yaml

ConfigT = TypeVar("ConfigT")

# YAML 1.1 reads 1e-4 as text because it has no dot; people mean a number.
SCIENTIFIC = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")


def presets() -> list[str]:
    """Names of the recipes in the package, each with its model."""
    folder = resources.files("cellfm") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def preset(name: str) -> ModelConfig:
    """Return the model of a packaged recipe.

    Parameters
    ----------
    name
        One of :func:`presets`. A vocabulary of another size replaces `n_genes` (`dataclasses.replace`).
    """
    if name not in presets():
        msg = f"There is no preset {name!r}.{_suggest(name, presets())} Presets: {', '.join(presets())}. Choose one of these."
        raise ConfigError(msg)
    return load(PretrainConfig, name).model


def load(kind: type[ConfigT], recipe: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a recipe, apply overrides, check names and types.

    Parameters
    ----------
    kind
        The config class to build.
    recipe
        Name of a packaged recipe, or path of a YAML file.
    overrides
        ``a.b=value``, applied in order; the value is read as YAML.
    """
    source, text = _read(recipe)
    data = _parse(text, source=source)
    if not isinstance(data, dict):
        msg = f"{source}: found {_short(data)}; a recipe is a mapping of sections, as in 'model: {{dim: 128}}'. Write the recipe in that form."
        raise ConfigError(msg)
    _check_names(kind, data, source=source)
    for override in overrides:
        _override(kind, data, override)
    return from_dict(
        kind, data, source=f"{source} with {' '.join(overrides)}" if overrides else source
    )


def to_dict(config: object) -> dict[str, object]:
    """Return a config as nested plain values that JSON and YAML can hold."""
    if not is_dataclass(config) or isinstance(config, type):
        msg = f"to_dict needs a config object; got {type(config).__name__}. Give one such as ModelConfig."
        raise ConfigError(msg)
    return cast("dict[str, object]", json.loads(json.dumps(asdict(config))))


def from_dict(
    kind: type[ConfigT], data: Mapping[str, object], *, source: str = "config.json"
) -> ConfigT:
    """Build a config from nested plain values; unknown keys and wrong types are refused.

    Parameters
    ----------
    kind
        The config class to build.
    data
        As :func:`to_dict` wrote it; a key that is left out takes its default.
    source
        What to call the origin in error messages.
    """
    from pydantic import TypeAdapter, ValidationError

    _check_names(kind, data, source=source)
    text = json.dumps(data, default=str)
    try:
        # Strict JSON: lists become tuples, but "3", 3.0 and true do not become the integer they resemble.
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        lines = [
            _complaint(cast("Mapping[str, Any]", entry), source=source) for entry in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def _read(recipe: str | Path) -> tuple[str, str]:
    name = str(recipe)
    if isinstance(recipe, str) and name in presets():
        packaged = resources.files("cellfm") / "recipes" / f"{name}.yaml"
        return f"{name}.yaml", packaged.read_text(encoding="utf-8")
    path = Path(recipe)
    if not path.is_file():
        msg = (
            f"There is no recipe {name!r}.{_suggest(name, presets())} "
            f"Packaged recipes: {', '.join(presets())}; or give the path of a YAML file."
        )
        raise ConfigError(msg)
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as UTF-8 text: {error}. Give the path of a YAML file."
        raise ConfigError(msg) from error


@cache
def _loader() -> "type[yaml.SafeLoader]":
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe YAML that knows 1e-4 and refuses a key given twice."""

        def construct_mapping(  # PyYAML's signature, positional flag included
            self,
            node: yaml.MappingNode,
            deep: bool = False,  # noqa: FBT001, FBT002
        ) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    problem = f"key {key!r} is given {keys.count(key)} times"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            return super().construct_mapping(node, deep=deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+0123456789"))
    return Loader


def _parse(text: str, *, source: str) -> object:
    import yaml

    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        msg = f"{source} is not valid YAML: {error}. Check indentation, colons and quotes there."
        raise ConfigError(msg) from None


def _sections(kind: type) -> dict[str, type]:
    """Fields of a config class that are configs themselves."""
    hints = get_type_hints(kind)
    return {
        field.name: hints[field.name] for field in fields(kind) if is_dataclass(hints[field.name])
    }


def _check_names(kind: type, data: Mapping[str, object], *, source: str, path: str = "") -> None:
    known = [field.name for field in fields(kind)]
    sections = _sections(kind)
    for key, value in data.items():
        if key not in known:
            msg = (
                f"{source}: {kind.__name__} has no field {key!r} ({path}{key}).{_suggest(str(key), known)} "
                f"Its fields: {', '.join(known)}. Use one of these."
            )
            raise ConfigError(msg)
        if key in sections:
            if not isinstance(value, Mapping):
                msg = (
                    f"{source}: {path}{key} is {_short(value)}; expected the fields of {sections[key].__name__}, "
                    f"as in '{path}{key}.{fields(sections[key])[0].name}'. Set the fields one by one."
                )
                raise ConfigError(msg)
            _check_names(sections[key], value, source=source, path=f"{path}{key}.")


def _override(kind: type, data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    source = f"override {override!r}"
    if not equals or not all(key.split(".")):
        msg = (
            f"{source} is not of the form key=value, as in 'optim.lr=1e-3'. Write it in that form."
        )
        raise ConfigError(msg)
    *sections, name = key.split(".")
    nested: Any = _parse(text, source=source)
    for part in reversed([*sections, name]):
        nested = {part: nested}
    _check_names(kind, nested, source=source)
    _merge(data, nested)


def _merge(data: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and value and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def _complaint(entry: Mapping[str, Any], *, source: str) -> str:
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "missing" and isinstance(entry["loc"][-1], str):
        return f"{source}: {key} is missing and has no default. Add it to the recipe or give {key}=value."
    cause = entry.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{source}: {cause}"
    return f"{source}: {key} is {_short(entry['input'])}. {entry['msg']}. Correct the value."


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def _short(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
