"""Which file system a folder is on, from the text that Linux gives of its mounts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenreduce.file_systems import file_system, is_network

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /data rw,relatime shared:5 master:1 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / /data/fast rw,relatime shared:6 - xfs /dev/nvme0n1 rw
32 27 0:42 / /with\040space\134and\011tab rw - cifs //server/share rw
33 27 0:43 / /home rw - autofs systemd-1 rw
34 33 0:44 / /home rw - lustre server:/home rw
35 27 0:45 / /me/remote rw - fuse.sshfs me@server: rw
36 27 0:46 / /over rw - fuse.fuse-overlayfs fuse-overlayfs rw
this is no line of mountinfo
37 27 0:47 / /dashes - in - names
"""


@pytest.mark.parametrize(
    ("folder", "kind", "network"),
    [
        ("/", "ext4", False),
        ("/results", "ext4", False),
        ("/data", "nfs4", True),
        ("/data/slow/deep", "nfs4", True),
        ("/data/fast", "xfs", False),
        ("/data/fast/deep", "xfs", False),
        ("/data/faster", "nfs4", True),
        ("/database", "ext4", False),
        ("/with space\\and\ttab/x", "cifs", True),
        ("/home/me", "lustre", True),
        ("/me/remote/x", "fuse.sshfs", True),
        ("/over/x", "fuse.fuse-overlayfs", False),
        ("/proc/self", "proc", False),
    ],
)
def test_the_longest_mount_point_counts(folder: str, kind: str, network: bool) -> None:
    found = file_system(Path(folder), MOUNTS)
    assert (found, is_network(found)) == (kind, network)


@pytest.mark.parametrize(
    "kind", ["nfs", "cifs", "smb3", "lustre", "gpfs", "beegfs", "9p", "ceph", "afs", "fuse.rclone"]
)
def test_shared_disks(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", ""])
def test_local_disks(kind: str) -> None:
    assert not is_network(kind)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    mounts = f"27 1 254:0 / / rw - ext4 x rw\n28 27 0:9 / {tmp_path}/target rw - nfs y rw\n"
    assert file_system(tmp_path / "link" / "inner", mounts) == "nfs"


@pytest.mark.parametrize("text", ["", "\n\n", "1 2 3", "- - -"])
def test_nothing_known(text: str) -> None:
    assert file_system(Path("/x"), text) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has mountinfo")
def test_this_machine(tmp_path: Path) -> None:
    command = ["stat", "--file-system", "--format=%T", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    found = file_system(tmp_path)
    # The same magic number stands for three systems.
    assert found == said or (said == "ext2/ext3" and found in ("ext2", "ext3", "ext4"))
