"""``/.hsm/README.txt``: how to read a disc without this software."""

# ruff: noqa: RUF001  (Chinese punctuation)

from __future__ import annotations

from typing import Final

from hsmfs.volume.source import FORMAT_VERSION, PARTS, VolumeHeader

README_NAME: Final = "README.txt"
_TEXT: Final = """\
VOLUME {label} (site {site}, pool {pool}, disc format {format})

What this is
This disc holds files as they were stored, under their original paths, in a
standard UDF {udf} file system. Any computer that reads Blu-ray data discs can
read them: mount the disc (Linux: mount -t udf -o ro /dev/sr0 /mnt) or open it
with Windows, macOS or 7-Zip. No other software is needed.

What the manifest says
/.hsm/manifest.jsonl is a text file, one JSON object a line. The first line
describes the volume, the last closes it, each other line is one entry:
  kind      file, dir, symlink, or link (a further name of a file)
  path      original path; path_b64 is the same in base64 (not UTF-8)
  disc_path name on this disc, where UDF could not hold the original name
  sector    first 2048-byte sector of the file's data, which is contiguous
  size, sha256, xxh3 (XXH3, 128 bits), chunks (XXH3, 64 bits, of each 4 MiB)
  void      true: the data could not be read when the disc was written
  mode, uid, gid, mtime_ns, atime_ns, ctime_ns (since 1970, UTC), xattrs
Without a working file system:
  dd if=/dev/sr0 bs=2048 skip=SECTOR count=SECTORS | head -c SIZE > FILE
or all of it, from one or several discs or images, proved by SHA-256, with
Python 3.9 or newer:  python3 recover.py --into DIRECTORY /dev/sr0
Check with sha256sum. Directories above the files that have no line of their
own were added. Symbolic links are in the manifest only.
{parts}
--------------------------------------------------------------------------
卷 {label}（站点 {site}，池 {pool}，光盘格式 {format}）

本光盘是什么
本光盘按原路径保存原始文件，采用标准 UDF {udf} 文件系统。任何能读取蓝光数据盘的
计算机都可以读取：挂载光盘（Linux：mount -t udf -o ro /dev/sr0 /mnt），或用
Windows、macOS、7-Zip 打开。不需要其他软件。

清单说明
/.hsm/manifest.jsonl 是文本文件，每行一个 JSON 对象。第一行说明本卷，最后一行
为结束行，其余每行是一个条目：
  kind      file 文件，dir 目录，symlink 符号链接，link 文件的另一个名称
  path      原路径；path_b64 为其 base64（原路径不是 UTF-8 时）
  disc_path UDF 无法保存原名称时，在本光盘上的名称
  sector    文件数据的第一个扇区（每扇区 2048 字节），数据连续存放
  size 大小，sha256，xxh3（XXH3 128 位），chunks（每 4 MiB 的 XXH3 64 位）
  void      true 表示写盘时无法读取数据，光盘上的内容无效
  mode、uid、gid、mtime_ns、atime_ns、ctime_ns（自 1970 年，UTC）、xattrs
文件系统损坏时：
  dd if=/dev/sr0 bs=2048 skip=扇区 count=扇区数 | head -c 大小 > 文件
或用 Python 3.9 以上版本从一张或多张光盘（或映像）恢复全部文件，并用 SHA-256 校验：
  python3 recover.py --into 目录 /dev/sr0
用 sha256sum 校验。符号链接只记录在清单中。
{parts_zh}"""
_PARTS: Final = """\
A file that is larger than a disc is in parts, NAME.part0001, NAME.part0002 ...,
on several discs; the manifest has part, parts, part_start and total_size.
Together they are the file:  cat NAME.part* > NAME
"""
_PARTS_ZH: Final = """\
大于一张光盘的文件分为几部分（NAME.part0001、NAME.part0002 ……），存放在多张光盘上，
清单中有 part、parts、part_start、total_size。合并：cat NAME.part* > NAME
"""


def readme(header: VolumeHeader) -> bytes:
    """The text for one volume."""
    return _TEXT.format(
        label=header.label,
        site=header.site,
        pool=header.pool,
        format=FORMAT_VERSION,
        udf=header.udf,
        parts=_PARTS if PARTS in header.features else "",
        parts_zh=_PARTS_ZH if PARTS in header.features else "",
    ).encode()
