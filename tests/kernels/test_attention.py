import math

import torch

from loid_infer.kernels.loid import absorbed, projected


def loop(query, tokens, mask, key, value, slot):
    """Loops over samples, heads and tokens."""
    out = torch.zeros_like(query)
    for n in range(len(query)):
        for h in range(query.shape[1]):
            valid = [k for k in range(tokens.shape[1]) if mask[n, k]]
            logits = [float(query[n, h] @ (key[h] @ tokens[n, k])) / math.sqrt(query.shape[2]) for k in valid]
            logits.append(float(slot[0][n, h]))
            top = max(logits)
            weights = [math.exp(logit - top) for logit in logits]
            vectors = [value[h] @ tokens[n, k] for k in valid] + [slot[1][h]]
            out[n, h] = sum(w / sum(weights) * v for w, v in zip(weights, vectors, strict=True))
    return out


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    n, k, h, c, x = 7, 5, 2, 3, 11
    mask = torch.rand(n, k) < 0.6
    mask[0], mask[1] = True, False
    slot = torch.randn(n, h, dtype=dtype), torch.randn(h, c, dtype=dtype)
    return (
        torch.randn(n, h, c, dtype=dtype),
        torch.randn(n, k, x, dtype=dtype),
        mask,
        torch.randn(h, c, x, dtype=dtype),
        torch.randn(h, c, x, dtype=dtype),
        slot,
    )


def test_absorbed_attention_equals_the_loop():
    parts = problem()
    torch.testing.assert_close(absorbed(*parts), loop(*parts), rtol=1e-12, atol=1e-12)


def test_absorbed_attention_equals_attention_over_projected_tokens():
    query, tokens, mask, key, value, slot = problem()
    keys, values = (torch.einsum("nkx,hcx->nkhc", tokens, part) for part in (key, value))
    torch.testing.assert_close(
        absorbed(query, tokens, mask, key, value, slot), projected(query, keys, values, mask, slot)
    )


def test_masked_tokens_change_nothing():
    query, tokens, mask, key, value, slot = problem()
    other = torch.where(mask[:, :, None], tokens, 1e3)
    torch.testing.assert_close(
        absorbed(query, tokens, mask, key, value, slot), absorbed(query, other, mask, key, value, slot)
    )


def test_without_tokens_the_result_is_the_slot():
    query, tokens, mask, key, value, slot = problem()
    torch.testing.assert_close(absorbed(query, tokens, mask, key, value, slot)[1], slot[1])


def test_without_the_slot_it_is_plain_attention():
    query, tokens, mask, key, value, slot = problem()
    closed = torch.full_like(slot[0], -math.inf)
    result = absorbed(query, tokens, torch.ones_like(mask), key, value, (closed, slot[1]))
    keys, values = (torch.einsum("nkx,hcx->nhkc", tokens, part) for part in (key, value))
    plain = torch.nn.functional.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]
    torch.testing.assert_close(result, plain)
