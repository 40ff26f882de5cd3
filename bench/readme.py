"""Writes the tables of README and docs from bench/results, so that no figure there is typed by hand.

python -m bench.readme            write them
python -m bench.readme --check    exit 1 if one differs from the results
"""

import json
import re
import sys
from pathlib import Path

from bench.record import RESULTS, ROOT, table

_BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def rendered(text: str) -> str:
    """`text` with every marked block made anew from its result file."""
    return _BLOCK.sub(lambda found: found[1] + _block(found[2]) + found[3], text)


def _block(name: str) -> str:
    if name.startswith("gpu_") and not (RESULTS / f"{name}.json").exists():
        return "\nNot measured yet: no GPU was at hand.\n\n"
    paths = [RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}.*.json"))]  # one a processor
    return "".join(_record(path) for path in paths) + "\n"


def _record(path: Path) -> str:
    record = json.loads(path.read_text())
    if path.stem == "walk":
        shown = (f"$ {row['command']}\n{row['prints']}" for row in record["rows"])
        return "\n```console\n{}\n```\n".format("\n".join(shown))
    machine = record["machine"]
    features = ", ".join(machine["features"])
    gpus = "".join(f"{gpu}, " for gpu in machine.get("gpus", []))
    made = f"{gpus}{machine['threads']} threads of {machine['processor']} ({features}), {record['date']}"
    return f"\n{table(record['rows'])}\n\n<sub>{record['notes']} {made}; `bench/results/{path.name}`.</sub>\n"


def main() -> None:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = {path: path.read_text() for path in paths}
    if "--check" in sys.argv[1:]:
        sys.exit(any(rendered(text) != text for text in texts.values()))
    for path, text in texts.items():
        path.write_text(rendered(text))


if __name__ == "__main__":
    main()
