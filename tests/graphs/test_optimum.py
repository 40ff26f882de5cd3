"""optimum opens an export. It holds transformers back, so this runs in an environment of its own: `make test-4.57`."""

from pathlib import Path

import numpy as np
import pytest

from loid_infer.encoders.folder import open_folder


def test_optimum_opens_the_export(exported: Path) -> None:
    optimum = pytest.importorskip("optimum.onnxruntime", reason="optimum is not installed: make test-4.57")
    import torch

    folder = exported / "exports/encoders/base"
    model = optimum.ORTModelForCustomTasks.from_pretrained(folder, file_name="model.onnx")
    probes = open_folder(folder, "base").probes()
    ids = torch.from_numpy(probes.flat_ids[: probes.lengths[0]].astype(np.int64))[None]
    cls = model(input_ids=ids, attention_mask=torch.ones_like(ids))["cls"]
    np.testing.assert_allclose(np.asarray(cls)[0], probes.cls[0], atol=1e-4)
