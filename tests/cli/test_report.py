"""`loid-infer report` as a user meets it."""

from pathlib import Path

from tests.cli.test_cli import as_json, loid
from tests.pages.records import full


def test_report_prints_its_path_as_json(tmp_path: Path) -> None:
    found = as_json(loid("report", "--domain", "toys", "-w", str(full(tmp_path).root), "--json", "--quiet"))
    assert found["path"] == str(tmp_path / "reports" / "toys.report.html")
    assert Path(found["path"]).read_text().startswith("<!doctype html>")
    assert found["not_measured"][0] == {"what": "Reviews", "command": "loid-infer ingest SRC --domain toys"}
