"""All checks of a namespace and its cache, in the order in which they build on each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hsmfs.fsck import indexcheck, inodecheck, metacheck, sidecheck
from hsmfs.fsck.cachecheck import CacheCheck
from hsmfs.fsck.copiescheck import check_copies
from hsmfs.fsck.entrycheck import EntryCheck
from hsmfs.fsck.findings import Finding
from hsmfs.fsck.linkcheck import LinkCheck
from hsmfs.fsck.lostfound import LostFound
from hsmfs.fsck.names import Names
from hsmfs.fsck.nodecheck import NodeCheck
from hsmfs.fsck.subject import Subject
from hsmfs.fsck.treecheck import TreeCheck
from hsmfs.fsck.wormcheck import check_worm

Check = Callable[[Subject], Iterator[Finding]]


def check(subject: Subject) -> Iterator[Finding]:
    """Findings as they come; repairs are committed between them if the workspace repairs.

    To be read to its end, or the last repairs are not written.
    """
    names = Names()
    lost = LostFound(subject, names)
    early: list[Check] = [
        metacheck.check_version,
        metacheck.check_unknown,
        metacheck.check_numbers,
        metacheck.check_journal,
        metacheck.load_marks,
        inodecheck.check_records,
        lambda subject: EntryCheck(subject, names).run(),
        lambda subject: LinkCheck(subject, names).run(),
        sidecheck.check_lost_links,
        lambda subject: TreeCheck(subject, names, lost).run(),
        lambda subject: NodeCheck(subject, names, lost).run(),
        sidecheck.check_targets,
        sidecheck.check_xattrs,
        lambda subject: CacheCheck(subject, lost).run(),
        check_copies,
        check_worm,
        indexcheck.check_index,
        indexcheck.check_counters,
        indexcheck.check_quotas,
    ]
    for step in early:
        yield from step(subject)
        subject.work.commit()
