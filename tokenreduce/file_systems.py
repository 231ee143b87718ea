"""What kind of file system a folder is on, and whether other machines may have it too."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "drvfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "wekafs",
    }
)
"""Network and cluster file systems, and folders that a virtual machine shares with its host."""

LOCAL_FUSE = frozenset(
    {"fuse.bindfs", "fuse.encfs", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs"}
)

_MOUNTS = Path("/proc/self/mountinfo")


def file_system(folder: Path, mountinfo: str | None = None) -> str:
    """Return the kind of file system that a folder is on, such as ``ext4`` or ``nfs4``.

    Parameters
    ----------
    folder
        An absolute path; links in it are followed.
    mountinfo
        What is mounted where, as in proc(5); by default what Linux says of this process.

    Returns
    -------
    str
        Empty where the system does not say, as on every system but Linux.
    """
    if mountinfo is None:
        if not _MOUNTS.exists():
            return ""
        mountinfo = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    place = PurePosixPath(folder.resolve())
    holding = [mount for mount in map(_mount, mountinfo.split("\n")) if mount is not None]
    holding = [(point, kind) for point, kind in holding if place.is_relative_to(point)]
    # Of mounts on one point, the last one hides the others.
    return max(reversed(holding), key=lambda mount: len(mount[0].parts), default=(place, ""))[1]


def is_network(kind: str) -> bool:
    """Return whether several machines may have such a file system, each with its own memory."""
    # What FUSE mounts may be anything (sshfs, rclone, ...): only known ones count as local.
    return kind in NETWORK or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def _mount(line: str) -> tuple[PurePosixPath, str] | None:
    """Return the mount point and the kind of a line; None if it is no line of mountinfo."""
    before, separator, after = line.partition(" - ")
    words = before.split(" ")
    if not separator or len(words) < 6:
        return None
    point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])
    return PurePosixPath(point), after.split(" ")[0]
