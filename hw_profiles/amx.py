"""Ask Linux for the use of AMX: a process may touch tiles only after that.

See "Using XSTATE features in user space applications" in the kernel's documentation (x86/xstate).
"""

from __future__ import annotations

import ctypes
import os
import platform

from autotune.errors import UnsupportedTarget

_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
#: Number of the state component that holds the tiles.
_XFEATURE_XTILEDATA = 18


def request_amx() -> None:
    """Ask for the permission, which all threads of this process then have.

    Asking again is harmless.

    Raises
    ------
    UnsupportedTarget
        If this is not Linux on x86-64, or the kernel refuses.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UnsupportedTarget("AMX kernels run on Linux on x86-64 only")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = (_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)
    if libc.syscall(*(ctypes.c_long(x) for x in arguments)):
        reason = os.strerror(ctypes.get_errno())
        raise UnsupportedTarget(
            f"the kernel does not let this process use AMX ({reason}): Linux 5.16 or later and a"
            " CPU with AMX are needed; tune again here, so that another instruction is chosen"
        )
