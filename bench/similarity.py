"""How alike are the real domains to the plain base, by mean and by CLS pooling?  python -m bench.similarity"""

import shutil

from bench.record import loid, needed_reviews, save, work_folder

DOMAINS = ("musical_instruments", "digital_music")


def main() -> None:
    workspace = work_folder("similarity")
    for domain in DOMAINS:
        loid("ingest", str(needed_reviews(domain)), "-d", domain, "-w", str(workspace))
    rows = []
    for pooling in ("mean", "cls"):
        done = loid("plugin", "similarity", *DOMAINS, "--pooling", pooling, "-w", str(workspace))
        for domain, values in zip(done["domains"], done["matrix"], strict=True):
            rows.append({"pooling": pooling, "domain": domain, **dict(zip(done["domains"], values, strict=True))})
    save(
        "How alike are the domains?",
        "similarity",
        rows,
        "Mean cosine over 100 x 100 pairs of reviews, plain all-MiniLM-L6-v2, at most 256 tokens, seed 0; a domain "
        "with itself: two draws that share no text. Other seeds move a value by about 0.01.",
    )
    shutil.rmtree(workspace)


if __name__ == "__main__":
    main()
