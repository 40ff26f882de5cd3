"""`plugin similarity` on the command line."""

from pathlib import Path

from loid_infer import ingest
from loid_infer.settings import Workspace
from tests.cli.test_cli import as_json, loid
from tests.conftest import toy_texts, write_reviews


def test_the_similarity_matrix_is_printed_as_json_or_as_a_table(toy_base: Path, tmp_path: Path) -> None:
    for domain in ("toys", "books"):
        source = write_reviews(tmp_path / f"{domain}.jsonl", [f"{domain} {text}" for text in toy_texts(20)])
        ingest([source], domain, workspace=Workspace(tmp_path))
    command = ["plugin", "similarity", "toys", "books", "--base", str(toy_base), "--n-texts", "8", "-w", str(tmp_path)]
    result = as_json(loid(*command, "--json", "--quiet"))
    assert result["domains"] == ["toys", "books"]
    ((within_toys, between), (between_again, within_books)) = result["matrix"]
    assert between == between_again
    assert Path(result["path"]).read_bytes()[:4] == b"\x89PNG"
    printed = loid(*command)
    assert printed.stderr == ""
    head, first, second = (line.split() for line in printed.stdout.splitlines()[-3:])
    assert head == ["toys", "books"]
    assert first == ["toys", f"{within_toys:.4g}", f"{between:.4g}"]
    assert second == ["books", f"{between:.4g}", f"{within_books:.4g}"]
    assert "pooling" in printed.stdout and "mean" in printed.stdout
    single = loid("plugin", "similarity", "toys", "-w", str(tmp_path))
    assert (single.returncode, single.stdout) == (2, "")
    assert "expected at least two, got 1" in single.stderr
