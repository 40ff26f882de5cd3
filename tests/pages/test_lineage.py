"""The lineage table of the report."""

from loid_infer.pages.page import lineage
from loid_infer.pages.records import read_findings
from loid_infer.settings import Workspace
from tests.pages.records import encoder, full_workspace, head, plugin, write


def test_each_artifact_is_listed_once_after_its_dependencies(tmp_path) -> None:
    assert list(lineage(read_findings(full_workspace(tmp_path)))) == [
        ("base", "tiny-bert", "digest bbbbbbbb", ""),
        ("plugin, trained", "one", "one, rank 32", "tiny-bert"),
        ("plugin, ties", "sum", "sum", "tiny-bert; merged of one + two"),
        ("plugin, trained", "two", "two, rank 32", "tiny-bert + one"),
        ("encoder", "base", "bf16, 256 tokens", "tiny-bert"),
        ("encoder", "mixed", "bf16, 256 tokens", "tiny-bert + one + two"),
        ("head", "toys", "toys", "base"),
        ("ranking head", "toys-sasrec", "toys, sasrec", "interactions alone"),
        ("ranking head", "toys-text", "toys, text", "base"),
    ]


def test_missing_dependencies_are_marked(tmp_path) -> None:
    workspace = Workspace(tmp_path)
    write(workspace.head("a") / "manifest.json", head("a", encoder="gone"))
    write(workspace.head("b") / "manifest.json", head("b", fingerprint="0" * 32))
    write(workspace.encoder("base") / "manifest.json", encoder(plugins=(("lost", "9" * 64),)))
    write(workspace.plugin("one") / "manifest.json", plugin("one", "1" * 64, on=["8" * 64, "9" * 64]))
    parents_of = {name: parents for _, name, _, parents in lineage(read_findings(workspace))}
    assert parents_of == {
        "tiny-bert": "",
        "base": "tiny-bert + lost (not in this workspace)",
        "one": "tiny-bert + 8888888888888888 (not in this workspace) + lost (not in this workspace)",
        "a": "gone (not in this workspace)",
        "b": "base, before its last export",
    }
