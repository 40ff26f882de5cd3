import torch

from loid_infer.kernels.loid import negatives, triplet


def test_triplet_equals_the_loop():
    torch.manual_seed(0)
    anchor, positive, negative = torch.randn(3, 9, 4, dtype=torch.float64)
    for row, loss in enumerate(triplet(anchor, positive, negative, 0.7)):
        near = sum((a - b) ** 2 for a, b in zip(anchor[row], positive[row], strict=True))
        far = sum((a - b) ** 2 for a, b in zip(anchor[row], negative[row], strict=True))
        assert abs(float(loss) - max(0.0, float(0.7 + near - far))) < 1e-12


def test_a_negative_has_another_id_and_each_such_row_is_equally_likely():
    ids = torch.tensor([4, 7, 4, 1, 7, 7, 2])
    torch.manual_seed(0)
    counts = torch.zeros(len(ids), len(ids))
    for _ in range(6_000):
        rows, exists = negatives(ids, torch.rand(len(ids)))
        assert exists.all()
        counts[torch.arange(len(ids)), rows] += 1
    for row in range(len(ids)):
        others = ids != ids[row]
        assert counts[row][~others].sum() == 0
        share = counts[row][others] / 6_000
        assert (share - 1 / int(others.sum())).abs().max() < 0.03


def test_the_largest_draw_stays_in_the_batch():
    rows, exists = negatives(torch.tensor([0, 0, 1]), torch.tensor([1 - 1e-9] * 3, dtype=torch.float64))
    assert rows.tolist() == [2, 2, 1] and exists.all()


def test_a_batch_of_one_id_has_no_negative():
    assert not negatives(torch.tensor([3, 3, 3]), torch.rand(3))[1].any()
