"""UDF images that Linux filled: mkudffs makes them, the kernel's driver writes to them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.discreaders import BOOT_TIMEOUT_S, COMPILER, LINUX, SHIM

MKUDFFS = shutil.which("mkudffs") or shutil.which("mkudffs", path="/usr/sbin:/sbin")
INIT = r"""#!{python} -I
import ctypes, json, os, shutil, stat
libc = ctypes.CDLL(None, use_errno=True)
FINIT_MODULE, POWER_OFF = 313, 0x4321FEDC
errors = []

def mount(what, where, kind, flags=0, options=b""):
    if libc.mount(what, where, kind, flags, options):
        raise OSError(ctypes.get_errno(), f"mount {{kind}}: {{os.strerror(ctypes.get_errno())}}")

try:
    mount(b"none", b"/mnt", b"tmpfs")
    modules = f"/usr/lib/uml/modules/{{os.uname().release}}/kernel"
    for name in ("lib/crc-itu-t", "drivers/cdrom/cdrom", "fs/udf/udf"):
        module = os.open(f"{{modules}}/{{name}}.ko", os.O_RDONLY)
        if libc.syscall(FINIT_MODULE, module, b"", 0):
            errors.append(f"module {{name}}: {{os.strerror(ctypes.get_errno())}}")
    os.mknod("/mnt/device", stat.S_IFBLK | 0o600, os.makedev(98, 0))
    os.mkdir("/mnt/disc")
    mount(b"/mnt/device", b"/mnt/disc", b"udf", 0, b"bs=2048,iocharset=utf8")
    exec(open({steps!r}).read(), {{"source": {source!r}, "disc": "/mnt/disc"}})
    os.sync()
    if libc.umount(b"/mnt/disc"):
        errors.append(f"umount: {{os.strerror(ctypes.get_errno())}}")
except Exception as error:
    errors.append(f"{{type(error).__name__}}: {{error}}")
with open({answer!r}, "w") as file:
    json.dump(errors, file)
os.sync()
libc.reboot(POWER_OFF)
"""
COPY = r"""
import os, shutil, stat
def copy(here, there):
    for name in sorted(os.listdir(here)):
        a, b = os.path.join(here, name), os.path.join(there, name)
        facts = os.lstat(a)
        if stat.S_ISLNK(facts.st_mode):
            os.symlink(os.readlink(a), b)
        elif stat.S_ISDIR(facts.st_mode):
            os.mkdir(b)
            copy(a, b)
        else:
            shutil.copyfile(a, b)
        os.chown(b, facts.st_uid, facts.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(facts.st_mode):
            os.chmod(b, stat.S_IMODE(facts.st_mode))
            os.utime(b, ns=(facts.st_atime_ns, facts.st_mtime_ns))
copy(source, disc)
"""
"""What is done in the mounted disc; ``source`` and ``disc`` are directories."""


def mkudffs(image: Path, size: int, *options: str) -> None:
    """An empty volume of 2048-byte blocks; skips where mkudffs is not installed."""
    if MKUDFFS is None:
        pytest.skip("udftools is not installed: no mkudffs")
    with image.open("wb") as file:
        file.truncate(size)
    command = [MKUDFFS, "--blocksize=2048", *options, str(image)]
    subprocess.run(command, check=True, capture_output=True)


def fill(image: Path, source: Path, work: Path, steps: str = COPY) -> None:
    """Copy a tree into a volume by Linux (6.1, user-mode); skips where that is not installed."""
    if LINUX is None or COMPILER is None:
        pytest.skip("user-mode-linux or gcc is not installed")
    if os.geteuid() != 0:
        pytest.skip("user-mode Linux with the host's files needs root to mount in it")
    work.mkdir(parents=True, exist_ok=True)
    shim, init, answer = work / "shim.so", work / "init", work / "answer.json"
    (work / "shim.c").write_text(SHIM)
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(shim), str(work / "shim.c")]
    subprocess.run(command, check=True)
    (work / "steps.py").write_text(steps)
    words = {"steps": str(work / "steps.py"), "source": str(source), "answer": str(answer)}
    init.write_text(INIT.format(python=os.path.realpath(sys.executable), **words))
    init.chmod(0o755)
    answer.unlink(missing_ok=True)
    command = [LINUX, "mem=512M", "rootfstype=hostfs", "rootflags=/", "rw", f"ubd0={image}"]
    command += [f"init={init}", "con=null", "con0=null", "quiet", f"uml_dir={work}/"]
    done = subprocess.run(
        command,
        env={"LD_PRELOAD": str(shim), "PATH": os.environ["PATH"], "HOME": str(work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOOT_TIMEOUT_S,
        check=False,
    )
    assert answer.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads(answer.read_text()) == []
