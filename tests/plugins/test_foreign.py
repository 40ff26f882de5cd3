"""Adapters from elsewhere: wrappers in names, task heads, pickled files, and the base that they name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from loid_infer import plugin_import
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.plugins.delta import ADAPTER_CONFIG, ADAPTER_FILE, adapter_config, delta_digest, read_delta, write_delta
from loid_infer.plugins.foreign import is_same_base
from loid_infer.types import SILENT
from tests.plugins.test_delta import open_with_peft
from tests.plugins.toy_plugins import peft_model, random_delta

PEFT = "base_model.model."


class Recorder(type(SILENT)):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def adapter(toy_base: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_delta(folder, random_delta(1, rank=3, scale=0.7), str(toy_base))
    return folder


def rename(folder: Path, name_of: Callable[[str], str]) -> None:
    save_file({name_of(key): part for key, part in load_file(folder / ADAPTER_FILE).items()}, folder / ADAPTER_FILE)


def edit(folder: Path, **fields: object) -> None:
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "base_model.model.", "base_model.", "module.", "_orig_mod.", "0.auto_model.", "auto_model.", "bert."),
        *("model.", "backbone.", "encoder.", "transformer.bert."),
        *("base_model.model.bert.", "base_model.model.0.auto_model.", "module.base_model.model._orig_mod.bert."),
        *("_orig_mod.module.base_model.model.", "base_model.model.module._orig_mod.0.auto_model.encoder."),
    ],
)
def test_wrappers_in_names_are_removed(toy_base: Path, adapter: Path, prefix: str) -> None:
    expected = delta_digest(read_delta(adapter))
    rename(adapter, lambda key: prefix + key.removeprefix(PEFT))
    assert plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent).digest == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [("layer.0.", "layer.0._orig_mod."), ("encoder.", "encoder._fsdp_wrapped_module."), (".weight", ".default.weight")],
)
def test_parts_that_libraries_leave_inside_of_names_are_removed(
    toy_base: Path, adapter: Path, old: str, new: str
) -> None:
    expected = delta_digest(read_delta(adapter))
    rename(adapter, lambda key: key.replace(old, new))
    assert plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent).digest == expected
    rename(adapter, lambda key: key.replace(PEFT, PEFT + "bert."))
    modules = [f"^{re.escape(name.removesuffix('.weight'))}" for name in random_delta(1)]
    edit(adapter, lora_alpha=1, alpha_pattern=dict.fromkeys(modules, 3 * 0.7))  # without the wrappers
    assert plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent).digest == expected
    open_with_peft(toy_base, adapter.parent / "exports/plugins/it")


def test_patterns_of_ranks_match_names_with_their_wrappers(toy_base: Path, adapter: Path) -> None:
    expected = delta_digest(read_delta(adapter))
    rename(adapter, lambda key: key.replace(PEFT, PEFT + "bert."))
    modules = [key.removesuffix(".lora_A.weight") for key in load_file(adapter / ADAPTER_FILE) if "lora_A" in key]
    alphas = {f"^{re.escape(module.removeprefix(PEFT))}": 3 * 0.7 for module in modules}
    edit(adapter, r=8, lora_alpha=1, rank_pattern={r"bert\..*": 3}, alpha_pattern=alphas)
    assert plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent).digest == expected


def test_two_adapters_for_one_tensor_are_refused(toy_base: Path, adapter: Path) -> None:
    factors = load_file(adapter / ADAPTER_FILE)
    save_file(
        {key.replace(".weight", f".{i}.weight"): t for key, t in factors.items() for i in "ab"}, adapter / ADAPTER_FILE
    )
    with pytest.raises(BadArtifact, match="two pairs of factors"):
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent)


@pytest.mark.parametrize(
    ("task", "heads", "saved"),
    [
        ("SEQ_CLS", ["classifier", "score"], "classifier"),
        ("SEQ_CLS", ["classifier", "pooler"], "bert.pooler.dense"),
        ("TOKEN_CLS", ["classifier", "score"], "classifier.modules_to_save"),
        ("QUESTION_ANS", ["qa_outputs"], "qa_outputs.modules_to_save.default"),
        ("CAUSAL_LM", ["lm_head"], "lm_head"),
        ("FEATURE_EXTRACTION", None, ""),
        (None, ["rating"], "rating"),
    ],
)
def test_task_heads_are_left_out_with_a_note(
    toy_base: Path, adapter: Path, task: str | None, heads: list[str] | None, saved: str
) -> None:
    expected, progress = delta_digest(read_delta(adapter)), Recorder()
    rename(adapter, lambda key: key.replace(PEFT, PEFT + "bert."))
    extra = {f"{PEFT}{saved}.{part}": np.ones(32, "f4") for part in ("weight", "bias")} if saved else {}
    save_file(load_file(adapter / ADAPTER_FILE) | extra, adapter / ADAPTER_FILE)
    edit(adapter, task_type=task, modules_to_save=heads)
    assert (
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent, progress=progress).digest == expected
    )
    notes = [line for line in progress.lines if "no vector depends on it" in line]
    assert len(notes) == bool(saved) and all(f"{saved}.weight" in line for line in notes)


@pytest.mark.parametrize("module", ["word_embeddings", "embeddings", "encoder.layer.1", "LayerNorm", "query"])
def test_modules_of_the_encoder_that_are_trained_in_full_are_refused(
    toy_base: Path, adapter: Path, module: str
) -> None:
    edit(adapter, modules_to_save=["classifier", module])
    with pytest.raises(BadArtifact, match=rf"modules_to_save has a module of the encoder.*got {module} \("):
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent)
    edit(adapter, modules_to_save=["classifier"])
    name = "embeddings.word_embeddings.weight"
    save_file(
        load_file(adapter / ADAPTER_FILE) | {f"{PEFT}bert.{name}": np.ones((108, 32), "f4")}, adapter / ADAPTER_FILE
    )
    with pytest.raises(BadArtifact, match=rf"bert\.{name}: a tensor is not a LoRA factor"):
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent)


def test_layers_that_the_base_lacks_are_refused_under_any_wrapper(toy_base: Path, adapter: Path) -> None:
    rename(adapter, lambda key: key.replace(PEFT, "module.auto_model.").replace("layer.0", "layer.7"))
    with pytest.raises(BadArtifact, match=r"the base has no tensor .*layer\.7"):
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent)


def test_pickled_adapters_are_refused_with_the_command_that_converts_them(toy_base: Path, adapter: Path) -> None:
    expected = delta_digest(read_delta(adapter))
    factors = {key: torch.from_numpy(part) for key, part in load_file(adapter / ADAPTER_FILE).items()}
    torch.save(factors, adapter / "adapter_model.bin")
    (adapter / ADAPTER_FILE).unlink()
    with pytest.raises(BadArtifact, match=r"pickled \(adapter_model\.bin\)") as caught:
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent)
    exec(caught.value.fix.split('"')[1])  # what the command runs
    assert plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent).digest == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (ADAPTER_FILE, b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (ADAPTER_CONFIG, b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (ADAPTER_FILE, None, "cut short, 1,000 bytes of at least"),
        (ADAPTER_FILE, b"", "it is empty"),
    ],
)
def test_damaged_adapters_are_refused(
    toy_base: Path, adapter: Path, file: str, content: bytes | None, message: str
) -> None:
    (adapter / file).write_bytes((adapter / file).read_bytes()[:1000] if content is None else content)
    with pytest.raises(BadArtifact, match=message):
        plugin_import(adapter, "it", base=str(toy_base), workspace=adapter.parent)


def test_an_adapter_in_a_folder_of_its_name_is_pointed_to(toy_base: Path, tmp_path: Path) -> None:
    peft_model(toy_base).save_pretrained(tmp_path / "all" / "mine")
    with pytest.raises(BadArtifact, match=rf"Give one of its folders: {tmp_path}/all/mine\."):
        plugin_import(tmp_path / "all", "it", base=str(toy_base), workspace=tmp_path)


@pytest.mark.parametrize(
    ("fields", "is_refused"),
    [
        ({"base_model_name_or_path": "someone/another-bert"}, True),
        ({"base_model_name_or_path": "/home/someone/another-bert/"}, True),
        ({"base_model_name_or_path": "someone/TOY"}, False),  # a folder has no owner
        ({"base_model_name_or_path": "C:\\\\models\\\\toy"}, False),
        ({"base_model_name_or_path": "toy", "revision": "main"}, False),
        ({"base_model_name_or_path": "toy", "revision": "v2"}, True),
        ({"base_model_name_or_path": None}, False),
    ],
)
def test_an_adapter_of_another_base_is_refused_unless_it_is_said_to_be_the_same(
    toy_base: Path, adapter: Path, fields: dict[str, object], is_refused: bool
) -> None:
    base = toy_base.parent / "toy"
    base.symlink_to(toy_base) if not base.exists() else None
    edit(adapter, **fields)
    progress = Recorder()
    options = {"base": str(base), "workspace": adapter.parent, "progress": progress}
    if is_refused:
        with pytest.raises(
            BadSetting, match=rf"another base \(expected {fields['base_model_name_or_path']}.*--same-base"
        ):
            plugin_import(adapter, "it", **options)
        plugin_import(adapter, "it", same_base=True, **options)
    else:
        plugin_import(adapter, "it", **options)
    notes = [line for line in progress.lines if "does not name its base" in line]
    assert len(notes) == (fields["base_model_name_or_path"] is None)


@pytest.mark.parametrize(
    ("named", "revision", "base", "is_same"),
    [
        ("BAAI/bge-small-en", "", "baai/bge-small-en", True),
        ("other/bge-small-en", "", "BAAI/bge-small-en", False),
        ("bert-base-uncased", "", "google-bert/bert-base-uncased", True),
        ("BAAI/bge-small-en", "abc123", "BAAI/bge-small-en", True),  # the one in the cache
        ("BAAI/bge-small-en", "def456", "BAAI/bge-small-en", False),
        ("/c/models--BAAI--bge-small-en/snapshots/0", "", "BAAI/bge-small-en", True),
        ("sentence-transformers/all-MiniLM-L6-v2", "", "default", False),
    ],
)
def test_names_of_the_hub_are_compared(tmp_path: Path, named: str, revision: str, base: str, is_same: bool) -> None:
    path = tmp_path / "models--BAAI--bge-small-en" / "snapshots" / "abc123"
    assert is_same_base(named, revision, base, "abc123", path) is is_same


def test_the_bundled_model_has_its_name_on_the_hub(tmp_path: Path) -> None:
    assert is_same_base("sentence-transformers/all-MiniLM-L6-v2", "", "default", "all-MiniLM-L6-v2", tmp_path)
    assert not is_same_base("nreimers/MiniLM-L6-H384-uncased", "", "default", "all-MiniLM-L6-v2", tmp_path)


@pytest.mark.parametrize(
    "field",
    [
        {"modules_to_save": True},
        {"modules_to_save": [1]},
        {"lora_alpha": "eight"},
        {"alpha_pattern": {"(?i)query": 8}},
        {"rank_pattern": {"(": 8}},
    ],
    ids=str,
)
def test_configs_with_values_of_other_types_are_refused(adapter: Path, field: dict[str, object]) -> None:
    edit(adapter, **field)
    with pytest.raises(BadArtifact, match="the adapter's config cannot be read"):
        adapter_config(adapter, ("modules_to_save",))


def test_a_very_long_name_of_a_base_is_compared(tmp_path: Path) -> None:
    assert not is_same_base("x" * 5000, "", "default", "MiniLM", tmp_path)
