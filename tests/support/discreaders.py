"""Discs as the Linux kernel and udfclient show them: programs that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hsmfs.types import SECTOR_BYTES

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
FINIT_MODULE, READ_CLEAR, POWER_OFF = 313, 4, 0x4321FEDC

def mount(what, where, kind, flags=0, options=b""):
    if libc.mount(what, where, kind, flags, options):
        raise OSError(ctypes.get_errno(), f"mount {{kind}}: {{os.strerror(ctypes.get_errno())}}")

def show(path, out):
    facts, digest = os.lstat(path), ""
    if stat.S_ISREG(facts.st_mode):
        hashed = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                hashed.update(piece)
        digest = hashed.hexdigest()
    out["entries"].append([os.path.relpath(path, b"/mnt/disc").hex(), facts.st_mode, facts.st_uid,
        facts.st_gid, facts.st_nlink, facts.st_size, facts.st_mtime_ns, digest])

def disc(number):
    out = {{"entries": [], "errors": [], "log": []}}
    try:
        os.mknod(f"/mnt/device{{number}}", stat.S_IFBLK | 0o600, os.makedev(98, 16 * number))
        options = b"bs=2048,iocharset=utf8"
        mount(b"/mnt/device%d" % number, b"/mnt/disc", b"udf", 1, options)
        for folder, directories, files in os.walk(b"/mnt/disc"):
            for name in directories + files:
                try:
                    show(os.path.join(folder, name), out)
                except OSError as error:
                    out["errors"].append(f"{{os.path.join(folder, name)!r}}: {{error.strerror}}")
        libc.umount2(b"/mnt/disc", 2)
    except OSError as error:
        out["errors"].append(str(error))
    log = ctypes.create_string_buffer(1 << 17)
    size = libc.klogctl(READ_CLEAR, log, len(log))
    lines = log.raw[:max(0, size)].decode(errors="replace").splitlines()
    out["log"] = [line for line in lines if "UDF" in line]
    return out

mount(b"none", b"/mnt", b"tmpfs")
os.mkdir("/mnt/disc")
modules = f"/usr/lib/uml/modules/{{os.uname().release}}/kernel"
for name in ("lib/crc-itu-t", "drivers/cdrom/cdrom", "fs/udf/udf"):
    module = os.open(f"{{modules}}/{{name}}.ko", os.O_RDONLY)
    libc.syscall(FINIT_MODULE, module, b"", 0)
answers = [disc(number) for number in range({count})]
with open({answer!r}, "w") as file:
    json.dump(answers, file)
os.sync()
libc.reboot(POWER_OFF)
"""
DISCS_MAX = 16
"""Block devices of one user-mode Linux."""
BAD_SECTORS = r"""
/* Ranges of files that cannot be read, as bad sectors of a disc cannot: HSM_BAD has lines
   "device inode from to". Reads that begin before one end at it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
static struct { unsigned long dev, ino; long from, to; } bad[64];
static int count;
__attribute__((constructor)) static void begin(void) {
    const char *at = getenv("HSM_BAD");
    while (at && count < 64 && sscanf(at, "%lu %lu %ld %ld", &bad[count].dev, &bad[count].ino,
                                      &bad[count].from, &bad[count].to) == 4) {
        count++;
        at = strchr(at, '\n');
        if (at) at++;
    }
}
/* How much of a read can be answered; -1: nothing. */
static ssize_t good(int fd, long at, size_t size) {
    struct stat facts;
    if (!count || fstat(fd, &facts)) return size;
    for (int i = 0; i < count; i++) {
        if (bad[i].dev != facts.st_dev || bad[i].ino != facts.st_ino) continue;
        if (at >= bad[i].to || at + (long)size <= bad[i].from) continue;
        if (at >= bad[i].from) { errno = EIO; return -1; }
        size = bad[i].from - at;
    }
    return size;
}
ssize_t pread64(int fd, void *to, size_t size, off_t at) {
    ssize_t left = good(fd, at, size);
    return left < 0 ? -1 : syscall(SYS_pread64, fd, to, left, at);
}
ssize_t pread(int fd, void *to, size_t size, off_t at) { return pread64(fd, to, size, at); }
ssize_t read(int fd, void *to, size_t size) {
    off_t at = count ? syscall(SYS_lseek, fd, 0, SEEK_CUR) : -1;
    ssize_t left = at < 0 ? (ssize_t)size : good(fd, at, size);
    return left < 0 ? -1 : syscall(SYS_read, fd, to, left);
}
ssize_t preadv(int fd, const struct iovec *to, int n, off_t at) {
    return n ? pread64(fd, to[0].iov_base, to[0].iov_len, at) : 0;
}
ssize_t preadv64(int fd, const struct iovec *to, int n, off_t at) { return preadv(fd, to, n, at); }
"""


def compiled(work: Path, name: str, source: str) -> Path:
    """A library to preload; skips without a compiler."""
    if COMPILER is None:
        pytest.skip("gcc is not installed")
    work.mkdir(parents=True, exist_ok=True)
    library = work / f"{name}.so"
    if not library.exists():
        code = work / f"{name}.c"
        code.write_text(source)
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(code)]
        subprocess.run(command, check=True)
    return library


Bad = Mapping[Path, range]
"""Sectors of images that cannot be read."""


def unreadable(bad: Bad, work: Path) -> dict[str, str]:
    """The environment of a program that cannot read them; empty for none."""
    if not bad:
        return {}
    lines = []
    for image, sectors in bad.items():
        facts, start = image.stat(), sectors.start * SECTOR_BYTES
        lines.append(f"{facts.st_dev} {facts.st_ino} {start} {sectors.stop * SECTOR_BYTES}")
    library = compiled(work, "badsectors", BAD_SECTORS)
    return {"LD_PRELOAD": str(library), "HSM_BAD": "\n".join(lines)}


def linux(image: Path, work: Path, timeout_s: float = BOOT_TIMEOUT_S) -> dict[str, Any]:
    """Entries, errors and messages of the kernel's udf driver (6.1, in user-mode Linux).

    Skips where it is not installed. Entries: path, mode, uid, gid, links, size,
    mtime in ns, SHA-256.
    """
    return linux_all([image], work, timeout_s=timeout_s)[0]


def linux_all(
    images: Sequence[Path],
    work: Path,
    bad: Bad | None = None,
    timeout_s: float = BOOT_TIMEOUT_S,
) -> list[dict[str, Any]]:
    """The same of several images, read by one after the other kernel."""
    if LINUX is None or COMPILER is None:
        pytest.skip("user-mode-linux or gcc is not installed: the kernel's driver is not tried")
    if os.geteuid() != 0:
        pytest.skip("user-mode Linux with the host's files needs root to mount in it")
    found: list[dict[str, Any]] = []
    for first in range(0, len(images), DISCS_MAX):
        found += _boot(images[first : first + DISCS_MAX], work, bad or {}, timeout_s)
    return found


def _boot(images: Sequence[Path], work: Path, bad: Bad, timeout_s: float) -> list[dict[str, Any]]:
    shim = compiled(work, "shim", SHIM)
    init, answer = work / "init", work / "answer.json"
    init.write_text(
        INIT.format(python=os.path.realpath(sys.executable), answer=str(answer), count=len(images))
    )
    init.chmod(0o755)
    answer.unlink(missing_ok=True)
    environment = unreadable({image: bad[image] for image in images if image in bad}, work)
    environment["LD_PRELOAD"] = f"{shim} {environment.get('LD_PRELOAD', '')}".strip()
    discs = [f"ubd{number}r={image}" for number, image in enumerate(images)]
    command = [str(LINUX), "mem=512M", "rootfstype=hostfs", "rootflags=/", "rw", *discs]
    command += [f"init={init}", "con=null", "con0=null", "quiet", f"uml_dir={work}/"]
    done = subprocess.run(
        command,
        env={**environment, "PATH": os.environ["PATH"], "HOME": str(work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert answer.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(answer.read_text())
    for one in found:
        one["entries"] = {bytes.fromhex(line[0]): tuple(line[1:]) for line in one["entries"]}
    return found


def udfclient(
    image: Path,
    into: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> str:
    """Copy the whole disc with udfclient.

    Returns what it said. Skips where it is not installed; ValueError where it shows no root.
    """
    program = shutil.which("udfclient")
    if program is None:
        pytest.skip("udfclient is not installed")
    into.mkdir(parents=True, exist_ok=True)
    command = [program, "-b", "2048", str(image)]

    def ask(words: str) -> str:
        done = subprocess.run(
            command, input=words, capture_output=True, text=True, timeout=timeout_s, check=False,
            cwd=into, errors="surrogateescape", env={**os.environ, **(environment or {})},
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
