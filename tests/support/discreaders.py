"""Discs as the Linux kernel and udfclient show them: programs that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LINUX = shutil.which("linux.uml")
COMPILER = shutil.which("gcc")
BOOT_TIMEOUT_S = 240
SHIM = r"""
/* User-mode Linux (6.1) sets registers by PTRACE_SETREGSET with a buffer for the
   extended state that is smaller than what processors with AMX have; the host
   refuses that. Here the rest is filled up from what the process has. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#define GETREGSET 0x4204
#define SETREGSET 0x4205
#define X86_XSTATE 0x202
long ptrace(int request, ...) {
    static __thread char whole[65536] __attribute__((aligned(64)));
    va_list list;
    va_start(list, request);
    int pid = va_arg(list, int);
    void *where = va_arg(list, void *), *data = va_arg(list, void *);
    va_end(list);
    if (request == SETREGSET && (long)where == X86_XSTATE) {
        struct iovec *given = data, all = {whole, sizeof whole};
        if (!syscall(SYS_ptrace, GETREGSET, pid, where, &all) && all.iov_len > given->iov_len) {
            memcpy(whole, given->iov_base, given->iov_len);
            return syscall(SYS_ptrace, SETREGSET, pid, where, &all);
        }
    }
    if (request >= 1 && request <= 3) { /* PEEK: the system call has the word in memory */
        long word, result = syscall(SYS_ptrace, request, pid, where, &word);
        if (result < 0) return result;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, request, pid, where, data);
}
"""
INIT = r"""#!{python} -I
import ctypes, hashlib, json, os, stat
libc = ctypes.CDLL(None, use_errno=True)
FINIT_MODULE, READ_ALL, POWER_OFF = 313, 3, 0x4321FEDC
out = {{"entries": [], "errors": [], "log": []}}

def mount(what, where, kind, flags=0, options=b""):
    if libc.mount(what, where, kind, flags, options):
        raise OSError(ctypes.get_errno(), f"mount {{kind}}: {{os.strerror(ctypes.get_errno())}}")

def show(path):
    facts, digest = os.lstat(path), ""
    if stat.S_ISREG(facts.st_mode):
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    out["entries"].append([os.path.relpath(path, b"/mnt/disc").hex(), facts.st_mode, facts.st_uid,
        facts.st_gid, facts.st_nlink, facts.st_size, facts.st_mtime_ns, digest])

try:
    mount(b"none", b"/mnt", b"tmpfs")
    modules = f"/usr/lib/uml/modules/{{os.uname().release}}/kernel"
    for name in ("lib/crc-itu-t", "drivers/cdrom/cdrom", "fs/udf/udf"):
        module = os.open(f"{{modules}}/{{name}}.ko", os.O_RDONLY)
        if libc.syscall(FINIT_MODULE, module, b"", 0):
            out["errors"].append(f"module {{name}}: {{os.strerror(ctypes.get_errno())}}")
    os.mknod("/mnt/device", stat.S_IFBLK | 0o600, os.makedev(98, 0))
    os.mkdir("/mnt/disc")
    mount(b"/mnt/device", b"/mnt/disc", b"udf", 1, b"bs=2048,iocharset=utf8")
    for folder, directories, files in os.walk(b"/mnt/disc"):
        for name in directories + files:
            try:
                show(os.path.join(folder, name))
            except OSError as error:
                out["errors"].append(f"{{os.path.join(folder, name)!r}}: {{error.strerror}}")
except OSError as error:
    out["errors"].append(str(error))
log = ctypes.create_string_buffer(1 << 17)
size = libc.klogctl(READ_ALL, log, len(log))
lines = log.raw[:max(0, size)].decode(errors="replace").splitlines()
out["log"] = [line for line in lines if "UDF" in line]
with open({answer!r}, "w") as file:
    json.dump(out, file)
os.sync()
libc.reboot(POWER_OFF)
"""


def linux(image: Path, work: Path) -> dict[str, Any]:
    """Entries, errors and messages of the kernel's udf driver (6.1, in user-mode Linux).

    Skips where it is not installed. Entries: path, mode, uid, gid, links, size,
    mtime in ns, SHA-256.
    """
    if LINUX is None or COMPILER is None:
        pytest.skip("user-mode-linux or gcc is not installed: the kernel's driver is not tried")
    if os.geteuid() != 0:
        pytest.skip("user-mode Linux with the host's files needs root to mount in it")
    work.mkdir(parents=True, exist_ok=True)
    shim, init, answer = work / "shim.so", work / "init", work / "answer.json"
    if not shim.exists():
        source = work / "shim.c"
        source.write_text(SHIM)
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", shim, source], check=True)
    init.write_text(INIT.format(python=os.path.realpath(sys.executable), answer=str(answer)))
    init.chmod(0o755)
    answer.unlink(missing_ok=True)
    command = [LINUX, "mem=512M", "rootfstype=hostfs", "rootflags=/", "rw", f"ubd0r={image}"]
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
    found: dict[str, Any] = json.loads(answer.read_text())
    found["entries"] = {bytes.fromhex(one[0]): tuple(one[1:]) for one in found["entries"]}
    return found


def udfclient(image: Path, into: Path) -> str:
    """Copy the whole disc with udfclient.

    Returns what it said. Skips where it is not installed.
    """
    program = shutil.which("udfclient")
    if program is None:
        pytest.skip("udfclient is not installed")
    into.mkdir(parents=True, exist_ok=True)
    command = [program, "-b", "2048", str(image)]

    def ask(words: str) -> str:
        done = subprocess.run(
            command, input=words, capture_output=True, text=True, timeout=120, check=False,
            cwd=into, errors="surrogateescape",
        )  # fmt: skip
        return done.stdout + done.stderr

    listing = [line for line in ask("ls\nquit\n").splitlines() if line.startswith("drwx")]
    (root,) = {line.split(maxsplit=4)[4] for line in listing}
    return ask(f'get "{root}" disc\nquit\n')


GRUB = shutil.which("grub-fstest")
needs_grub = pytest.mark.skipif(GRUB is None, reason="grub-fstest (grub-common) is not installed")


def grub(image: Path, path: str) -> bytes:
    """A file as the boot loader GRUB reads it."""
    assert GRUB is not None
    command = [GRUB, str(image), "cat", f"(loop0)/{path}"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout
