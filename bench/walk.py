"""What does a user see? The README's commands on the real reviews, with what they print.

python -m bench.walk
"""

import shutil
import subprocess
import sys

from bench.record import needed_reviews, save, work_folder

PAIRS = "user_id,item_id\nA2IBPI20UZIR0U,B00004Y2UT\nsomebody-new,B00004Y2UT\n"
ENCODE = ("encode", "--domain", "musical_instruments")
# Command -> the fields of its output that are shown.
STEPS = (
    (("ingest", "reviews.json.gz", "--domain", "musical_instruments"), ("n_rows", "n_users")),
    (ENCODE, ("runtime", "runtime_detail", "n_encoded", "n_tokens", "seconds")),
    (ENCODE, ("n_hits", "n_encoded", "seconds")),
    (("fit", "--domain", "musical_instruments"), ("test_mse", "baselines", "seconds")),
    (("score", "pairs.csv"), ("out",)),
)


def main() -> None:
    source, folder = needed_reviews(), work_folder("walk")
    shutil.copy(source, folder / "reviews.json.gz")
    (folder / "pairs.csv").write_text(PAIRS)
    loid = [sys.executable, "-c", "from loid_infer.cli.app import main; main()"]
    subprocess.run([*loid, "export", "--quiet"], cwd=folder, check=True, capture_output=True)
    rows = []
    for command, fields in STEPS:
        done = subprocess.run([*loid, *command, "--quiet"], cwd=folder, check=True, capture_output=True, text=True)
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.split(" ")[0] in fields]
        rows.append({"command": f"loid-infer {' '.join(command)}", "prints": "\n".join([*lines, "..."])})
    rows.append({"command": "cat pairs.scores.csv", "prints": (folder / "pairs.scores.csv").read_text().strip()})
    save("What does a user see?", "walk", rows, "The encoder had been exported before.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
