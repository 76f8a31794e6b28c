"""Options of mount(8): what they come to."""

from __future__ import annotations

import pytest

from hsmfs import mountoptions as m


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("ro", ["ro"]),
        (",ro,,noatime,", ["ro", "noatime"]),
        ('context="a,b",ro', ["context=a,b", "ro"]),
        ('fsname="/a b,c",x="', ["fsname=/a b,c", "x="]),
    ],
)
def test_split(text, words):
    assert m.split(text) == words


@pytest.mark.parametrize(
    ("words", "flags", "helper"),
    [
        ([], m.MS_NOSUID | m.MS_NODEV, ()),
        (["suid", "dev"], 0, ("suid", "dev")),
        (["suid", "nosuid"], m.MS_NOSUID | m.MS_NODEV, ()),
        (["ro", "rw", "ro"], m.MS_NOSUID | m.MS_NODEV | m.MS_RDONLY, ("ro",)),
        (["noatime", "relatime"], m.MS_NOSUID | m.MS_NODEV | m.MS_RELATIME, ()),
        (["dirsync", "lazytime"], m.MS_NOSUID | m.MS_NODEV | m.MS_DIRSYNC | m.MS_LAZYTIME,
         ("dirsync",)),
        (["defaults", "user", "x-a=b", "default_permissions"], m.MS_NOSUID | m.MS_NODEV, ()),
    ],
)  # fmt: skip
def test_the_last_answer_counts(words, flags, helper):
    assert not [word for word in words if m.problem(word)]
    found = m.resolve(words)
    assert (found.flags, found.helper) == (flags, helper)
    assert not found.allow_other
    assert found.source is None


def test_source_and_allow_other():
    found = m.resolve(["allow_other", "fsname=a", "fsname=/b=c"])
    assert found.allow_other
    assert found.source == "/b=c"


@pytest.mark.parametrize("word", [*m.REFUSED, "context=a:b", "uid=0", "quux", "fsname", "ro=1", ""])
def test_refused(word):
    assert m.problem(word)
