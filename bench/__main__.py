"""The benchmarks that fit in 15 minutes on two cores, one after the other, and then the README's tables."""

import subprocess
import sys

from bench.record import ROOT, real_reviews

QUESTIONS = {
    "encode": True,
    "pipeline": False,
    "merge": False,
    "heads": True,
    "walk": True,
}  # name -> whether it needs the real reviews


def main() -> None:
    for question, needs_reviews in QUESTIONS.items():
        if needs_reviews and real_reviews() is None:
            print(f"{question}: skipped, no real reviews beside the checkout (LOID_SHARED)")
            continue
        print(f"\n== {question}", flush=True)
        subprocess.run([sys.executable, "-m", f"bench.{question}"], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "bench.docs"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
