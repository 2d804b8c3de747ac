"""Carry out the repairs that `check` names, each with a descriptor of the directory and one name."""

import os
from contextlib import closing

from unionfs.analysis.check import Finding, Repair
from unionfs.core.ondisk import WHITEOUT_PREFIX
from unionfs.linux import at, xattr
from unionfs.linux.directories import Directories
from unionfs.linux.remove import remove
from unionfs.oci.entry import parent_of
from unionfs.oci.form import Form

__all__ = ["repair"]


def repair(root: int, finding: Finding, form: Form) -> bool:
    """Repair one finding in the layer *root*, a descriptor; False where nothing can be done.

    Nobody may have the layer mounted.
    """
    if finding.repair in {Repair.NONE, Repair.KEEP}:
        return False
    with closing(Directories(root)) as directories:
        dirfd, name = directories.parent(finding.path)
        match finding.repair:
            case Repair.REMOVE:
                remove(dirfd, name)
            case Repair.REMOVE_MARK:
                xattr.remove(at.proc_path(dirfd, name), finding.mark)
            case Repair.MAKE_WHITEOUT:
                hidden = name.removeprefix(WHITEOUT_PREFIX)
                if not at.exists(dirfd, hidden):  # beside a file of the same layer it says nothing
                    form.whiteout(dirfd, hidden)
                remove(dirfd, name)
            case Repair.MAKE_OPAQUE if finding.mark:
                form.opaque(directories.fd(finding.path))
                xattr.remove(at.proc_path(*directories.parent(finding.path)), finding.mark)
            case Repair.MAKE_OPAQUE:
                form.opaque(directories.fd(parent_of(finding.path)))
                os.unlink(name, dir_fd=directories.parent(finding.path)[0])
    return True
