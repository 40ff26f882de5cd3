"""`plugin train` and `export --plugin` on the command line."""

from pathlib import Path

from loid_infer.settings import Workspace
from tests.cli.test_cli import as_json, loid
from tests.verbs.test_train import write_domain


def test_plugins_are_trained_stacked_and_exported(toy_base: Path, tmp_path: Path) -> None:
    workspace, root = Workspace(tmp_path), str(tmp_path)
    for seed, domain in enumerate(("films", "games")):
        write_domain(workspace, domain, n=80, seed=seed)
    common = ("--base", str(toy_base), "-w", root, "--json")
    train = ("plugin", "train", "--epochs", "1", "--rank", "2", *common)
    films = as_json(loid(*train, "--domain", "films"))
    fields = {
        "plugin",
        "path",
        "n_params",
        "val_mse",
        "test_mse",
        "base_digest",
        "parent_digest",
        "split_digest",
        "seconds",
    }
    assert films.keys() >= fields
    games = as_json(loid(*train, "--domain", "games", "--on", "films", "--layers", "1", "--targets", "query,value"))
    assert games["n_params"] == 2 * 2 * (32 + 32)
    assert games["parent_digest"] != games["base_digest"] == films["base_digest"]
    exported = as_json(loid("export", "--plugin", "games", "--precision", "fp32", *common))
    assert (exported["encoder"], sorted(exported["plugins"])) == ("games", ["films", "games"])
    listed = as_json(loid("plugin", "list", "-w", root, "--json"))["plugins"]
    assert [(plugin["name"], plugin["on"]) for plugin in listed] == [("films", []), ("games", ["films"])]
    assert as_json(loid("plugin", "show", "games", "-w", root, "--json"))["digest"] == games["digest"]
    refused = loid("plugin", "train", "--domain", "games", *common, "--on", "books")
    assert refused.returncode == 2
    assert "no plugin 'books'" in refused.stderr
    assert "Traceback" not in refused.stderr
