"""Opening plugins by name and by digest, and the chain of plugins of an encoder."""

import shutil

import numpy as np
import pytest

from loid_infer.errors import BadArtifact, BadName, BadSetting
from loid_infer.plugins.delta import delta_digest
from loid_infer.plugins.folder import open_chain, open_plugin
from loid_infer.settings import Workspace
from loid_infer.types import NamedDigest
from tests.plugins.toy_plugins import random_delta, write_plugin

BASE = ("toy", "b" * 64)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def names(chain) -> list[str]:
    return [plugin.name for plugin in chain]


def test_a_plugin_is_read_from_its_folder(workspace: Workspace) -> None:
    delta = random_delta(0)
    digest = write_plugin(workspace, "one", delta)
    plugin = open_plugin(workspace, "one")
    manifest = plugin.manifest
    assert (plugin.name, plugin.digest, manifest.base) == ("one", digest, NamedDigest(*BASE))
    assert (manifest.on, manifest.holds, manifest.domains, manifest.method) == ((), (), ("one",), "train")
    assert delta_digest(plugin.delta()) == delta_digest(delta) == digest


def test_a_missing_plugin_is_refused_with_the_list_of_plugins(workspace: Workspace) -> None:
    write_plugin(workspace, "one", random_delta(0))
    with pytest.raises(BadArtifact, match=r"no plugin 'two'.*got one.*plugin train --domain two"):
        open_plugin(workspace, "two")
    with pytest.raises(BadName):
        open_plugin(workspace, "../one")


def test_an_altered_plugin_is_refused(workspace: Workspace) -> None:
    digest = write_plugin(workspace, "one", random_delta(0))
    path = workspace.plugin("one") / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadArtifact, match="adapter_model"):
        open_plugin(workspace, "one")
    write_plugin(workspace, "top", random_delta(1), on=[digest])
    with pytest.raises(BadArtifact, match="adapter_model"):
        open_chain(workspace, ["top"], *BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "head"},
        {"digest": 1},
        {"on": None},
        {"base": "toy"},
        {"base": {}},
        {"holds": 0},
        {"trained_on": ["x"]},
        {"parents": [{"name": "x"}]},
    ],
)
def test_an_invalid_manifest_is_refused(workspace: Workspace, change: dict) -> None:
    write_plugin(workspace, "one", random_delta(0), **change)
    with pytest.raises(BadArtifact, match="manifest"):
        open_plugin(workspace, "one")


def test_a_chain_contains_each_parent_once_in_digest_order(workspace: Workspace) -> None:
    source, other = (
        write_plugin(workspace, "source", random_delta(0)),
        write_plugin(workspace, "other", random_delta(1)),
    )
    top = write_plugin(workspace, "top", random_delta(2), on=sorted([source, other]))
    second = write_plugin(workspace, "second", random_delta(3), on=[source])
    write_plugin(workspace, "unrelated", random_delta(4))
    chain = open_chain(workspace, ["second", "top"], *BASE)
    assert [plugin.digest for plugin in chain] == sorted([source, other, top, second])
    assert chain == open_chain(workspace, ["top", "second"], *BASE)
    assert names(open_chain(workspace, ["source"], *BASE)) == ["source"]
    assert open_chain(workspace, [], *BASE) == ()


def test_a_parent_is_found_by_its_digest_under_any_name(workspace: Workspace) -> None:
    source = write_plugin(workspace, "source", random_delta(0))
    write_plugin(workspace, "top", random_delta(1), on=[source])
    workspace.plugin("source").rename(workspace.plugin("renamed"))
    (workspace.plugins / "broken").mkdir()
    (workspace.plugins / "broken" / "manifest.json").write_text("{")
    assert sorted(names(open_chain(workspace, ["top"], *BASE))) == ["renamed", "top"]


def test_a_missing_parent_is_named(workspace: Workspace) -> None:
    source = write_plugin(workspace, "source", random_delta(0))
    write_plugin(workspace, "top", random_delta(1), on=[source])
    shutil.rmtree(workspace.plugin("source"))
    with pytest.raises(BadArtifact, match=f"'top' was trained on is missing.*{source}"):
        open_chain(workspace, ["top"], *BASE)


def test_parents_on_another_base_are_ignored(workspace: Workspace) -> None:
    # The same factors on two bases have one digest: only the one on this base counts.
    source = write_plugin(workspace, "foreign", random_delta(0), base={"name": "other", "digest": "c" * 64})
    write_plugin(workspace, "top", random_delta(1), on=[source])
    with pytest.raises(BadArtifact, match="is missing"):
        open_chain(workspace, ["top"], *BASE)


def test_another_base_is_refused_with_both_names(workspace: Workspace) -> None:
    write_plugin(workspace, "one", random_delta(0))
    with pytest.raises(BadSetting, match=r"'one' belongs to another base \(expected toy.*got mini"):
        open_chain(workspace, ["one"], "mini", "c" * 64)


@pytest.fixture
def family(workspace: Workspace) -> Workspace:
    """`a`, its copy, `b`, `c`; `ab` and `bc` merged of them; `on_a` trained on `a`, `on_ab` on the merge."""
    a, b, c = (write_plugin(workspace, name, random_delta(seed)) for seed, name in enumerate("abc"))
    shutil.copytree(workspace.plugin("a"), workspace.plugin("copy"))
    full = {"x.weight": np.ones((2, 2), "f4")}
    ab = write_plugin(workspace, "ab", full, method="linear", holds=sorted([a, b]))
    write_plugin(workspace, "bc", {"y.weight": full["x.weight"]}, method="linear", holds=sorted([b, c]))
    write_plugin(workspace, "on_a", random_delta(3), on=[a])
    write_plugin(workspace, "on_ab", random_delta(4), on=[ab])
    return workspace


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["a", "a"], "'a' is named twice"),
        (["a", "copy"], "'copy' is the same as 'a'"),
        (["a", "on_a"], "'a' is present twice: 'on_a' was trained on it"),
        (["on_a", "a"], "'a' is present twice: 'on_a' was trained on it"),
        (["ab", "a"], "'a' is present twice"),
        (["on_a", "ab"], "'a' is present twice"),
        (["on_ab", "b"], "'b' is present twice"),
        (["on_ab", "on_a"], "'a' is present twice"),
        (["ab", "bc"], "is present twice"),
    ],
)
def test_a_plugin_that_would_be_added_twice_is_refused(family: Workspace, named: list[str], message: str) -> None:
    with pytest.raises(BadSetting, match=message) as error:
        open_chain(family, named, *BASE)
    assert error.value.where


def test_chains_without_duplicates_are_allowed(family: Workspace) -> None:
    assert sorted(names(open_chain(family, ["on_ab", "c"], *BASE))) == ["ab", "c", "on_ab"]
    assert sorted(names(open_chain(family, ["on_a", "bc"], *BASE))) == ["a", "bc", "on_a"]
