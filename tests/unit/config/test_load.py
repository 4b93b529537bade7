import dataclasses
import json
import subprocess
import sys

import pytest

from cellfm.config import ModelConfig, PretrainConfig, from_dict, load, preset, presets, to_dict
from cellfm.errors import ConfigError

RECIPES = ["3b", "800m", "80m", "debug", "mini", "small"]


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_recipes_in_the_package():
    assert presets() == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_goes_round(name):
    config = load(PretrainConfig, name)
    assert from_dict(PretrainConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert config.schedule.warmup_steps < config.schedule.n_steps
    assert config.model == preset(name)


def test_resolved_config_is_a_recipe(tmp_path):
    config = load(PretrainConfig, "debug", ["optim.lr=1e-5", "data.token_budget=7"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert load(PretrainConfig, path) == config


def test_overrides():
    config = load(
        PretrainConfig,
        "debug",
        [
            "optim.lr=1e-4",
            "optim.betas=[0.8, 0.9]",
            "run={seed: 3}",
            "data.token_budget=5",
            "run.seed=4",
        ],
    )
    assert config.optim.lr == 1e-4
    assert config.optim.betas == (0.8, 0.9)
    assert config.run.seed == 4
    assert config.run.log_every == 1
    assert config.data.token_budget == 5


def test_overrides_of_lists_and_mappings():
    config = load(
        PretrainConfig,
        "debug",
        [
            "data.where=[tissue=blood, disease!=normal]",
            "data.held_out_datasets=[pbmc3k]",
            "data.weights.pbmc3k=2",
            "data.weights={tian.v2: 0.5}",
            "run.trackers=[tensorboard]",
        ],
    )
    assert config.data.where == ("tissue=blood", "disease!=normal")
    assert config.data.held_out_datasets == ("pbmc3k",)
    assert config.data.weights == {"pbmc3k": 2.0, "tian.v2": 0.5}
    assert config.run.trackers == ("tensorboard",)
    assert from_dict(PretrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_tracker():
    with pytest.raises(ConfigError, match=r"run.trackers.0 is .*'tensorboard' or 'wandb'"):
        load(PretrainConfig, "debug", ["run.trackers=[comet]"])


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.e-4", "+1e-4", "0.0001"])
def test_scientific_notation_is_a_number(number):
    assert load(PretrainConfig, "debug", [f"optim.lr={number}"]).optim.lr == 1e-4


def test_whole_number_for_a_float():
    assert load(PretrainConfig, "debug", ["optim.lr=1"]).optim.lr == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.n_layrs=3",
            r"override 'model.n_layrs=3': ModelConfig has no field 'n_layrs' \(model.n_layrs\). Did you mean 'n_layers'\?",
        ),
        (
            "optimm.lr=3",
            r"PretrainConfig has no field 'optimm' \(optimm\). Did you mean 'optim'\? Its fields: model, schedule",
        ),
        ("optim.lr", r"override 'optim.lr' is not of the form key=value, as in 'optim.lr=1e-3'"),
        ("optim..lr=3", "is not of the form key=value"),
        (
            "optim.lr=[1",
            r"override 'optim.lr=\[1' is not valid YAML: .*Check indentation, colons and quotes",
        ),
        (
            "optim.lr=fast",
            r"debug.yaml with optim.lr=fast: optim.lr is 'fast' \(str\). Input should be a valid number",
        ),
        ("run.seed=true", r"run.seed is True \(bool\). Input should be a valid integer"),
        ("run.seed=1.5", r"run.seed is 1.5 \(float\). Input should be a valid integer"),
        ("run.seed='1'", r"run.seed is '1' \(str\). Input should be a valid integer"),
        ("data.thin=1", r"data.thin is 1 \(int\). Input should be a valid boolean"),
        ("optim.betas=[0.9]", r"optim.betas.1 is \[0.9\] \(list\). Field required"),
        ("optim.kind=sgd", r"optim.kind is 'sgd' \(str\). Input should be 'adamw' or 'adam'"),
        (
            "model=3",
            r"model is 3 \(int\); expected the fields of ModelConfig, as in 'model.n_genes'",
        ),
        (
            "model.dim=33",
            r"debug.yaml with model.dim=33: ModelConfig.dim 33 is not a multiple of n_heads 2",
        ),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(PretrainConfig, "debug", [override])


def test_unknown_recipe():
    with pytest.raises(
        ConfigError,
        match=r"no recipe 'debgu'. Did you mean 'debug'\? Packaged recipes: .*path of a YAML file",
    ):
        load(PretrainConfig, "debgu")


def test_unknown_preset():
    with pytest.raises(
        ConfigError,
        match=r"no preset '81m'. Did you mean '80m'\? Presets: 3b, 800m",
    ):
        preset("81m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 3", r"mine.yaml: found \[3\] \(list\); a recipe is a mapping of sections"),
        ("", r"mine.yaml: found None \(NoneType\); a recipe is a mapping"),
        ("model:\n  dim: 3\n  dim: 4\n", "mine.yaml is not valid YAML: key 'dim' is given 2 times"),
        ("model: {n_genes: 1", "mine.yaml is not valid YAML"),
        (
            "model: {dmi: 1}",
            r"mine.yaml: ModelConfig has no field 'dmi' \(model.dmi\). Did you mean 'dim'",
        ),
        ("{1: 2}", r"PretrainConfig has no field 1 \(1\)"),
        (
            "model: {n_genes: 1, dim: 2, n_heads: 1}\nschedule: {n_steps: 1}",
            r"mine.yaml: model.n_layers is missing and has no default. Add it to the recipe or give model.n_layers=value",
        ),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(PretrainConfig, write(tmp_path, text))


def test_every_fault_of_a_file_is_told(tmp_path):
    path = write(
        tmp_path, "model: {n_genes: a, dim: b, n_layers: 1, n_heads: 1}\nschedule: {n_steps: 1}"
    )
    with pytest.raises(ConfigError, match=r"model.n_genes is 'a'.*\n.*model.dim is 'b'"):
        load(PretrainConfig, path)


def test_not_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        ConfigError,
        match=r"mine.yaml cannot be read as UTF-8 text: .* Give the path of a YAML file",
    ):
        load(PretrainConfig, path)


def test_to_dict_wants_a_config():
    with pytest.raises(ConfigError, match="to_dict needs a config object; got type"):
        to_dict(ModelConfig)


def test_from_dict_is_strict():
    content = to_dict(preset("debug"))
    assert from_dict(ModelConfig, content) == preset("debug")
    with pytest.raises(
        ConfigError, match=r"config.json: ModelConfig has no field 'colour' \(colour\)"
    ):
        from_dict(ModelConfig, {**content, "colour": 1})
    with pytest.raises(ConfigError, match=r"model.json: dim is 1.0 \(float\)"):
        from_dict(ModelConfig, {**content, "dim": 1.0}, source="model.json")


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("debug").dim = 3


def test_import_is_light():
    code = (
        "import sys, cellfm.config; heavy = {'torch', 'yaml', 'pydantic'} & set(sys.modules); assert not heavy, heavy; "
        "cellfm.config.preset('debug'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_mapping_takes_away_what_the_recipe_names(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    model = "{n_genes: 10, dim: 8, n_layers: 1, n_heads: 2}"
    recipe.write_text(
        f"model: {model}\nschedule: {{n_steps: 1}}\nobjective: {{settings: {{delta: 1.0}}}}\n"
    )
    assert load(PretrainConfig, recipe).objective.settings == {"delta": 1.0}
    changed = load(PretrainConfig, recipe, ["objective.settings.gamma=2"])
    assert changed.objective.settings == {"delta": 1.0, "gamma": 2.0}
    assert load(PretrainConfig, recipe, ["objective.settings={}"]).objective.settings == {}
