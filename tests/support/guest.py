"""A small guest (user-mode Linux, on the host's files) with the kernel's own SCSI stack.

Its iSCSI initiator logs in to a target that runs in the guest too, over the
guest's loopback; programs there find /dev/sg*, /dev/sr* and /dev/bsg/* as on
any machine with a library. Nothing of the host's network or devices is used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from support.discreaders import COMPILER, LINUX, SHIM

TIMEOUT_S = 900
MODULES = ("sg", "sr_mod", "ch", "iscsi_tcp", "udf")
ROOT = Path(__file__).parents[2]
INIT = r"""#!{python} -I
import ctypes, json, os, stat, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
job = json.load(open({job!r}))
results = []
os.environ.update(job["environment"])

def run(command, timeout):
    try:
        done = subprocess.run(command, shell=True, timeout=timeout, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        return 124, str(error.output)

def mount(what, where, kind):
    if libc.mount(what, where, kind, 0, None):
        results.append(["mount", 1, os.strerror(ctypes.get_errno())])

def load(name, known, loaded):
    path, needs = known[name]
    for other in needs:
        if other not in loaded:
            load(other, known, loaded)
    if name not in loaded:
        file = os.open(path, os.O_RDONLY)
        if libc.syscall(313, file, b"", 0):
            results.append([f"module {{name}}", 1, os.strerror(ctypes.get_errno())])
        loaded.add(name)

def modules():
    folder, known = f"/usr/lib/uml/modules/{{os.uname().release}}", {{}}
    for line in open(f"{{folder}}/modules.dep"):
        path, _, needs = line.partition(":")
        stem = lambda one: os.path.basename(one)[:-3]
        known[stem(path)] = (f"{{folder}}/{{path}}", [stem(one) for one in reversed(needs.split())])
    loaded = set()
    for name in job["modules"]:
        load(name, known, loaded)

try:
    for where, kind in (("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs"),
            ("/run", "tmpfs"), ("/mnt", "tmpfs")):
        if where != "/dev" or not os.path.ismount(where):  # the kernel may have done that one
            mount(kind.encode(), where.encode(), kind.encode())
    os.makedirs("/dev/shm", exist_ok=True)
    modules()
    run("ip link set lo up", 20)
    for command in job["commands"]:
        results.append([command, *run(command, job["timeout"])])
        with open(job["answer"], "w") as file:
            json.dump(results, file)
except BaseException as error:
    results.append(["init", 1, repr(error)])
with open(job["answer"], "w") as file:
    json.dump(results, file)
os.sync()
libc.reboot(0x4321FEDC)
"""


class Done(NamedTuple):
    """One command in the guest."""

    command: str
    code: int
    output: str


def needs(*programs: str) -> None:
    """Skip where the guest or a program is missing."""
    if LINUX is None or COMPILER is None:
        pytest.skip("user-mode-linux or gcc is not installed: no guest")
    if os.geteuid() != 0:
        pytest.skip("user-mode Linux with the host's files needs root")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run_guest(
    work: Path, commands: Sequence[str], timeout_s: int = 120, memory: str = "1024M"
) -> list[Done]:
    """Run commands one after the other; each with its exit status and what it said."""
    needs("ip")
    work.mkdir(parents=True, exist_ok=True)
    shim, init, answer, job = (work / n for n in ("shim.so", "init", "answer.json", "job.json"))
    (work / "shim.c").write_text(SHIM)
    assert COMPILER is not None and LINUX is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", shim, work / "shim.c"], check=True)
    search = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    job.write_text(
        json.dumps(
            {
                "commands": list(commands),
                "modules": MODULES,
                "answer": str(answer),
                "timeout": timeout_s,
                "environment": {"PATH": search, "HOME": "/mnt", "HSMFS_GUEST": "sg bsg sgio"},
            }
        )
    )
    init.write_text(INIT.format(python=os.path.realpath(sys.executable), job=str(job)))
    init.chmod(0o755)
    answer.unlink(missing_ok=True)
    command = [LINUX, f"mem={memory}", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}"]
    command += ["con=null", "con0=null", "quiet", f"uml_dir={work}/"]
    done = subprocess.run(
        command,
        env={"LD_PRELOAD": str(shim), "PATH": os.environ["PATH"], "HOME": str(work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert answer.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return [Done(*one) for one in json.loads(answer.read_text())]


def log_in(portal_port: int, target: str) -> list[str]:
    """Commands that log the guest's kernel in to a target on its loopback."""
    name = "iqn.2025-01.org.hsmfs:guest"
    return [
        f"timeout 60 iscsistart -i {name} -t {target} -g 1 -a 127.0.0.1 -p {portal_port}",
        "for n in $(seq 100); do [ -e /dev/sg2 ] && break; sleep 0.1; done; ls /dev/sg2",
    ]
