"""How edge models are trained: what overrides what, and that an edge depends on what it reads of it and on nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mergeline.architectures import ARCHITECTURES
from mergeline.training import OPTIMIZERS, Recipe
from stages.plan.code import module_closure
from stages.plan.keys import Edge
from stages.plan.loading import parse_params
from stages.plan.params import Params, Training
from stages.plan.pipelines import StageCell, make_plan
from stages.plan.recipes import WITHOUT_MOMENTUM, recipe_keys, recipe_settings
from tests.conftest import bench_values

VIT = dict(ARCHITECTURES["vit8"].recipe)


def transformers(train: dict[str, Any] | None = None, recipes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A benchmark of ResNets and of vision transformers of two depths, some of them finetuned, some swept."""
    values = bench_values(train=train or {}, finetune={"epochs": 1})
    values["merges"] = {
        "resnet": {"tasks": ["bars"], "architectures": ["r17"]},
        "vit": {"tasks": [["bars", "late"]], "architectures": ["vit4", "vit8"], "normalize": ["none"]},
        "swept": {"tasks": ["bars"], "architectures": ["vit8"], "normalize": ["none"], "sweep": {"learning_rate": [0.25]}},
    }  # fmt: skip
    return values | ({"recipes": recipes} if recipes else {})


def parsed(train: dict[str, Any] | None = None, recipes: dict[str, Any] | None = None) -> Params:
    return parse_params(transformers(train, recipes))


def rate(params: Params, edge: Edge, section: str = "train") -> Any:
    return recipe_settings(params, edge, section)["learning_rate"]


# -- what overrides what ----------------------------------------------------------------------------------------------


def test_each_level_overrides_those_below_it_and_leaves_the_rest() -> None:
    vit, resnet = Edge("bars", "vit8", 0), Edge("bars", "r17", 0)
    swept = Edge("bars", "vit8", 0, recipe=(("learning_rate", 0.25), ("initialization", "kaiming_normal")))
    usual = Training().model_dump()

    none = parsed()
    assert recipe_settings(none, resnet, "train") == usual
    assert recipe_settings(none, vit, "train") == usual | VIT
    assert VIT["optimizer"] == "adamw"

    said = parsed({"learning_rate": 0.5, "momentum": 0.9})  # the schema's default, but set: it is what train says
    assert recipe_settings(said, resnet, "train") == usual | {"learning_rate": 0.5}
    assert recipe_settings(said, vit, "train") == usual | VIT | {"learning_rate": 0.5}

    own = parsed({"learning_rate": 0.5, "shift": 1}, {"vit8": {"learning_rate": 0.125, "batch_size": 8}})
    assert recipe_settings(own, vit, "train") == usual | VIT | {"learning_rate": 0.125, "batch_size": 8, "shift": 1}
    assert rate(own, resnet) == rate(own, Edge("bars", "vit4", 0)) == 0.5

    assert recipe_settings(own, swept, "train") == recipe_settings(own, vit, "train") | {"learning_rate": 0.25}


@pytest.mark.parametrize("key", Training.model_fields)
def test_a_default_that_is_written_down_overrides_the_family(key: str) -> None:
    """It is what params.yaml says, whether or not the schema says the same."""
    default = Training().model_dump()[key]
    assert recipe_settings(parsed({key: default}), Edge("bars", "vit8", 0), "train")[key] == default


def test_finetuning_has_its_own_section_and_the_same_recipes() -> None:
    params = parsed({"learning_rate": 0.5}, {"vit8": {"batch_size": 8}})
    settings = recipe_settings(params, Edge("late", "vit8", 0), "finetune")
    assert settings == Training().model_dump() | VIT | {"epochs": 1, "batch_size": 8}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_recipe_of_every_architecture_is_one_that_the_schema_allows_and_training_takes(name: str) -> None:
    given = Training.model_validate(dict(ARCHITECTURES[name].recipe))
    assert Recipe(**given.model_dump()).optimizer in OPTIMIZERS


def test_the_schema_knows_the_optimizers_that_there_are_and_which_have_a_momentum() -> None:
    for name in OPTIMIZERS:
        assert Training.model_validate({"optimizer": name}).optimizer == name
    assert set(WITHOUT_MOMENTUM) < set(OPTIMIZERS)


# -- what an edge depends on ------------------------------------------------------------------------------------------


def stages(params: Params) -> dict[str, StageCell]:
    return {f"{stage.stage}@{stage.cell}": stage for stage in make_plan(params).stages}


def trainings(params: Params) -> dict[str, StageCell]:
    return {name: stage for name, stage in stages(params).items() if stage.stage in ("train", "finetune")}


def value(params: Params, key: str) -> Any:
    found: Any = params.model_dump(exclude_unset=True)
    for part in key.split("."):
        found = found[part]
    return found


def test_recipes_of_one_architecture_touch_its_edges_alone() -> None:
    before, after = stages(parsed({"shift": 1})), stages(parsed({"shift": 1}, {"vit8": {"learning_rate": 0.125}}))
    changed = {name for name in after if before.get(name) != after[name]}
    assert set(before) == set(after)
    assert changed == {name for name, stage in trainings(parsed()).items() if ".vit8" in stage.cell}


def test_an_edge_depends_on_the_values_of_its_recipe_and_on_no_other_of_the_sections() -> None:
    """Of all settings, those that an edge is trained with change if and only if a parameter that it names changes."""
    base = {"train": {"epochs": 2, "learning_rate": 0.5}, "recipes": {"vit8": {"learning_rate": 0.125, "shift": 1}}}
    params = parsed(**base)
    edges = [Edge("bars", "r17", 0), Edge("bars", "vit4", 0), Edge("bars", "vit8", 0),
             Edge("bars", "vit8", 0, recipe=(("learning_rate", 0.25),))]  # fmt: skip
    for section, key in [("train", "epochs"), ("train", "learning_rate"), ("vit8", "learning_rate"), ("vit8", "shift")]:
        other = copy.deepcopy(base)
        (other["train"] if section == "train" else other["recipes"][section])[key] = 3
        changed = parsed(**other)
        for edge in edges:
            keys = recipe_keys(params, edge, "train")
            assert keys == recipe_keys(changed, edge, "train")
            seen = any(value(params, name) != value(changed, name) for name in keys)
            assert seen == (recipe_settings(params, edge, "train") != recipe_settings(changed, edge, "train"))


def test_keys_are_whole_sections_where_nothing_of_them_is_overridden() -> None:
    params = parsed({"epochs": 2, "learning_rate": 0.5}, {"vit8": {"learning_rate": 0.125, "shift": 1}})
    swept = Edge("bars", "vit8", 0, recipe=(("learning_rate", 0.25),))
    assert recipe_keys(params, Edge("bars", "vit4", 0), "train") == ["train"]
    assert recipe_keys(params, Edge("bars", "vit8", 0), "train") == ["recipes.vit8", "train.epochs"]
    assert recipe_keys(params, swept, "train") == ["recipes.vit8.shift", "train.epochs"]


def test_edges_with_a_recipe_of_their_own_are_stages_of_another_kind() -> None:
    made = trainings(parsed({"epochs": 2}, {"vit8": {"shift": 1}}))
    kinds = {name: stage.kind for name, stage in made.items()}
    assert kinds["train@bars.r17.s0"] == "train"
    assert kinds["train@bars.vit4.s0"] == "train"
    assert kinds["train@bars.vit8.s0"] == "train-vit8"
    assert kinds["finetune@late.vit8.s1"] == "finetune-vit8"
    assert kinds["train@bars.vit8-learning_rate=0.25.s0"] == "train-vit8-learning_rate"


def test_the_code_of_a_training_has_the_recipes_of_the_architectures() -> None:
    assert {"mergeline.architectures", "stages.plan.recipes"} <= module_closure(["stages.train"])
