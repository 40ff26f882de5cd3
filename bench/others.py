"""Where do the other ways stand, the slow ones too? As `bench.encode`, on fewer reviews; not part of `make bench`.

python -m bench.others [N_REVIEWS] [ROUNDS]
"""

import sys

from bench.encode import OURS, RIVALS, compare

SLOW_RIVALS = (
    "sentence_transformers_bf16",
    "sentence_transformers_onnx",
    "openvino_loop",
    "transformers_loop",
    "fastembed_default",
)


def main(n_reviews: int = 3000, rounds: int = 1) -> None:
    ours = (*OURS, ("fp32", "onnxruntime"))
    compare("Where do the other ways stand?", "others", n_reviews, rounds, ours, (*RIVALS, *SLOW_RIVALS))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
