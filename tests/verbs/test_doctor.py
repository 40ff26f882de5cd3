"""`doctor`: problems of the installation, the file system and GPUs are reported."""

import importlib.metadata
from pathlib import Path

import pytest

from loid_infer.encoders import protocol
from loid_infer.settings import Workspace, file_system, is_mount_point
from loid_infer.verbs import doctor as module


def test_two_installed_onnxruntime_wheels_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.0" if name.startswith("onnxruntime") else original(name)
    )
    checks = {check.name: check for check in module.doctor(workspace=Workspace(tmp_path)).checks}
    assert not checks["onnxruntime"].ok
    assert "pip uninstall" in checks["onnxruntime"].mend


def test_a_network_file_system_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "file_system", lambda _: ("nfs4", True))
    checks = {check.name: check for check in module.doctor(workspace=Workspace(tmp_path)).checks}
    assert not checks["file system"].ok
    assert "local disk" in checks["file system"].mend


def test_missing_fast_runtimes_are_reported_with_an_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(protocol, "installed", lambda package: package == "torch")
    checks = {check.name: check for check in module.doctor(workspace=Workspace(tmp_path)).checks}
    assert not checks["runtime"].ok
    assert "pip install" in checks["runtime"].mend


def test_a_workspace_that_does_not_exist_yet_is_valid(tmp_path: Path) -> None:
    assert {check.name: check.ok for check in module.doctor(workspace=Workspace(tmp_path / "no" / "where")).checks}[
        "disk"
    ]


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    shared = tmp_path / "shared disk"
    name = str(shared).replace(" ", "\\040")
    lines = ["/dev/a / ext4 rw 0 0", f"auto {name} autofs rw 0 0", f"server:/b {name} nfs4 rw 0 0"]
    mounts.write_text("\n".join([*lines, f"tmpfs {name}/local tmpfs rw 0 0"]) + "\n")
    assert file_system(shared / "not" / "there", mounts) == ("nfs4", True)
    assert file_system(shared / "local" / "x", mounts) == ("tmpfs", False)
    assert file_system(tmp_path, mounts) == ("ext4", False)
    assert file_system(tmp_path, tmp_path / "absent") == ("", False)


LOCAL = ("ext4", "xfs", "btrfs", "overlay", "tmpfs", "vfat", "fuseblk", "fuse.fuse-overlayfs", "fuse.gocryptfs")
REMOTE = (
    *(
        "nfs4",
        "cifs",
        "9p",
        "virtiofs",
        "vboxsf",
        "vmhgfs",
        "fuse.vmhgfs-fuse",
        "drvfs",
        "prl_fs",
        "osxfs",
        "fakeowner",
    ),
    *("fuse", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.mountpoint-s3", "fuse.blobfuse2"),
    *("fuse.juicefs", "fuse.alluxio-fuse", "fuse.sshfs", "fuse.grpcfuse", "fuse.something-new", "ceph", "lustre"),
)


@pytest.mark.parametrize(("kind", "is_remote"), [*((k, False) for k in LOCAL), *((k, True) for k in REMOTE)])
def test_file_systems_that_may_be_no_local_disk_are_told(tmp_path: Path, kind: str, is_remote: bool) -> None:
    mounts, place = tmp_path / "mounts", tmp_path / "a\tb\\c d"
    name = str(place).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nbucket {name} {kind} rw 0 0\n")
    assert file_system(place / "ws", mounts) == (kind, is_remote)
    assert is_mount_point(place, mounts) and not is_mount_point(place / "ws", mounts)


def test_with_a_gpu_a_torch_without_cuda_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for lacks in ("torch_lacks", "onnxruntime_lacks", "tensorrt_lacks", "faiss_lacks"):
        monkeypatch.setattr(module.gpu, lacks, lambda: "it is not installed")
    others = ("onnxruntime on a GPU", "TensorRT", "FAISS on a GPU")
    for driver, is_problem in (("", False), ("580.1", True)):
        monkeypatch.setattr(module.gpu, "driver", lambda driver=driver: driver)
        checks = {check.name: check for check in module.doctor(workspace=Workspace(tmp_path)).checks}
        assert checks["torch on a GPU"].ok == (not is_problem)
        assert all(checks[name].ok for name in others), "optional on every machine"
        assert all(bool(checks[name].mend) == is_problem for name in (*others, "torch on a GPU"))
        assert all("no, it is not installed" in checks[name].detail for name in others)
    monkeypatch.setattr(module.gpu, "torch_lacks", lambda: "")
    checks = {check.name: check for check in module.doctor(workspace=Workspace(tmp_path)).checks}
    assert checks["torch on a GPU"].detail.endswith("yes")
    assert "torch on the GPU" in checks["runtime"].detail
