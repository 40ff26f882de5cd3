import torch

from loid_infer.learning.checkpoint import Checkpoint


def test_a_checkpoint_is_loaded_by_the_same_run_only(tmp_path):
    path = tmp_path / "c"
    checkpoint = Checkpoint(path, "one", 0.0)
    assert checkpoint.load() is None
    for value in (1.0, 2.0):
        checkpoint.save({"a/b": torch.full((2, 3), value).T}, {"step": value})
    tensors, state = Checkpoint(path, "one", 0.0).load()
    assert state == {"step": 2.0} and torch.equal(tensors["a/b"], torch.full((3, 2), 2.0))
    assert Checkpoint(path, "two", 0.0).load() is None
    path.write_bytes(path.read_bytes()[:-5])
    assert checkpoint.load() is None  # damaged
    checkpoint.remove()
    checkpoint.remove()
    assert not path.exists()


def test_a_checkpoint_is_due_after_every_s(tmp_path):
    assert Checkpoint(tmp_path / "c", "run", 0.0).due()
    assert not Checkpoint(tmp_path / "c", "run", 1e9).due()
