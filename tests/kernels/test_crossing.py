import math

import pytest
import torch

from loid_infer.kernels.crossing import Attention, crossed
from loid_infer.kernels.loid import absorbed
from loid_infer.kernels.threads import Workers, workers


def attention(seed: int, n: int, *, closed: bool = False) -> Attention:
    """Random arguments; `closed`: the slot counts only where there is no token."""
    torch.manual_seed(seed)
    k, h, c, x = 5, 2, 3, 11
    mask = torch.rand(n, k) < 0.6
    mask[0], mask[1] = True, False
    draw = [torch.randn(*shape, dtype=torch.float64) for shape in ((n, h, c), (n, k, x), (h, c, x), (h, c, x))]
    logits, values = torch.randn(n, h, dtype=torch.float64), torch.randn(h, c, dtype=torch.float64)
    if closed:
        logits = torch.where(mask.any(1, keepdim=True), -math.inf, logits)
    query, tokens, key, value = draw
    for part in (query, key, value, logits, values):
        part.requires_grad_()
    return Attention(query, tokens, mask, key, value, logits, values)


def gradients(attentions, outputs):
    torch.manual_seed(9)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    parts = [part for each in attentions for part in each.parts if part.requires_grad]
    found = [part.grad.clone() for part in parts]
    for part in parts:
        part.grad = None
    return found


@pytest.mark.parametrize("n", [2, 7, 600])  # 600: several jobs
@pytest.mark.parametrize("closed", [False, True])
def test_outputs_and_gradients_are_those_of_autograd(n, closed):
    attentions = [attention(seed, n, closed=closed) for seed in (0, 1)]
    expected = [
        absorbed(each.query, each.tokens, each.mask, each.key, each.value, (each.slot_logits, each.slot_values))
        for each in attentions
    ]
    wanted = gradients(attentions, expected)
    with workers() as threads:
        for by in (Workers(), threads):
            got = crossed(attentions, by)
            torch.testing.assert_close(list(got), expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradients(attentions, got), wanted, rtol=1e-10, atol=1e-10)


def test_threads_change_no_bit():
    attentions = [attention(seed, 600) for seed in (0, 1)]
    with workers() as threads:
        one, two = (crossed(attentions, by) for by in (Workers(), threads))
        first, second = (gradients(attentions, outputs) for outputs in (one, two))
    assert all(torch.equal(a, b) for a, b in zip([*one, *first], [*two, *second], strict=True))
