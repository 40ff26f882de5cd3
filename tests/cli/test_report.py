"""`loid-infer report` as a user meets it."""

from pathlib import Path

from tests.cli.test_cli import as_json, loid
from tests.pages.records import full_workspace


def test_report_prints_its_path_as_json(tmp_path: Path) -> None:
    result = as_json(loid("report", "--domain", "toys", "-w", str(full_workspace(tmp_path).root), "--json", "--quiet"))
    assert result["path"] == str(tmp_path / "reports" / "toys.report.html")
    assert Path(result["path"]).read_text().startswith("<!doctype html>")
    assert result["not_measured"][0] == {"what": "Reviews", "command": "loid-infer ingest SRC --domain toys"}
