from loid_infer.pages.findings import read_findings
from loid_infer.pages.graph import Line
from loid_infer.pages.lineage import lineage
from loid_infer.settings import Workspace
from tests.pages.records import BASE, encoder, full, head, plugin, write

ONE, TWO, SUM = (f"plugin:{digit * 64}" for digit in "123")


def test_each_thing_is_drawn_once_and_chains_go_the_long_way(tmp_path) -> None:
    found = lineage(read_findings(full(tmp_path)))
    base = f"base:{BASE['digest']}"
    assert set(found.lines) == {
        Line(base, ONE), Line(ONE, TWO), Line(ONE, SUM, dashed=True), Line(TWO, SUM, dashed=True),
        Line(base, "encoder:base"), Line(TWO, "encoder:mixed"), Line("encoder:base", "head:toys"),
    }  # fmt: skip
    columns = {box.key: box.column for box in found.boxes}
    assert columns == {base: 0, ONE: 1, TWO: 2, SUM: 3, "encoder:base": 4, "encoder:mixed": 4, "head:toys": 5}
    assert not any(box.absent for box in found.boxes)


def test_what_is_named_but_not_there_is_absent(tmp_path) -> None:
    place = Workspace(tmp_path)
    write(place.head("a") / "manifest.json", head("a", encoder="gone"))
    write(place.head("b") / "manifest.json", head("b", fingerprint="0" * 32))
    write(place.encoder("base") / "manifest.json", encoder(plugins=(("lost", "9" * 64),)))
    absent = {box.key: box.name for box in lineage(read_findings(place)).boxes if box.absent}
    assert absent == {"encoder:gone": "gone", "encoder:base, before": "base, before", f"plugin:{'9' * 64}": "lost"}


def test_a_circle_in_altered_manifests_ends(tmp_path) -> None:
    place = Workspace(tmp_path)
    write(place.plugin("one") / "manifest.json", plugin("one", "1" * 64, on=["2" * 64]))
    write(place.plugin("two") / "manifest.json", plugin("two", "2" * 64, on=["1" * 64]))
    found = lineage(read_findings(place))
    columns = {box.key: box.column for box in found.boxes}
    assert all(columns[line.start] < columns[line.end] for line in found.lines)
    assert max(columns.values()) < len(columns)
