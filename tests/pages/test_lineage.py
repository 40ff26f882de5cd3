from loid_infer.pages.page import lineage
from loid_infer.pages.records import read_findings
from loid_infer.settings import Workspace
from tests.pages.records import encoder, full, head, plugin, write


def test_each_thing_is_told_once_below_all_that_it_rests_on(tmp_path) -> None:
    assert list(lineage(read_findings(full(tmp_path)))) == [
        ("base", "tiny-bert", "digest bbbbbbbb", ""),
        ("plugin, trained", "one", "one, rank 32", "tiny-bert"),
        ("plugin, ties", "sum", "sum", "tiny-bert; merged of one + two"),
        ("plugin, trained", "two", "two, rank 32", "tiny-bert + one"),
        ("encoder", "base", "bf16, 256 tokens", "tiny-bert"),
        ("encoder", "mixed", "bf16, 256 tokens", "tiny-bert + one + two"),
        ("head", "toys", "toys", "base"),
    ]


def test_what_is_named_but_not_there_is_said(tmp_path) -> None:
    place = Workspace(tmp_path)
    write(place.head("a") / "manifest.json", head("a", encoder="gone"))
    write(place.head("b") / "manifest.json", head("b", fingerprint="0" * 32))
    write(place.encoder("base") / "manifest.json", encoder(plugins=(("lost", "9" * 64),)))
    write(place.plugin("one") / "manifest.json", plugin("one", "1" * 64, on=["8" * 64, "9" * 64]))
    found = {name: under for _, name, _, under in lineage(read_findings(place))}
    assert found == {
        "tiny-bert": "",
        "base": "tiny-bert + lost (not in this workspace)",
        "one": "tiny-bert + 8888888888888888 (not in this workspace) + lost (not in this workspace)",
        "a": "gone (not in this workspace)",
        "b": "base, before it was exported anew",
    }
