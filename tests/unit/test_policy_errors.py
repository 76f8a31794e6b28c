"""Every wrong policy is answered with its place, what was found and what to write."""

from __future__ import annotations

import pytest

from hsmfs.daemon.policy.evaluate import load_policy
from hsmfs.daemon.policy.lexer import PolicyError

POOL = "pool p { copies 2 }\n"
MIGRATE = POOL + "migrate m to p when "
RELEASE = "release r from tier ssd "
COUNTS = "< <= > >= = !="
FACT_NAMES = (
    "age, atime_age, mtime_age, ctime_age, size, heat, uid, gid, owner, group, copies, tier, "
    "state, residency, path, name, mime, xattr"
)
DURATION = "a duration such as 30d (units s m h d w y)"
SIZE = "a size such as 64KiB (units B kB MB GB TB KiB MiB GiB TiB)"
SETTINGS = "'copies', 'burn', 'head', 'offsite', 'parity', 'scrub', 'reclaim', 'recovery'"
STATES = "one of resident, premigrated, migrated, recalling"
NAME = "a name of 1 to 64 characters that can be printed"
STATEMENTS = (
    "a statement ('pool', 'migrate', 'release', 'pin', 'demote', 'recall-ahead', 'retain', 'limit')"
)
STATEMENT = f"'and', 'or' or {STATEMENTS}"
SIGNS = "a word, a number, a string or one of < <= > >= = != ~ ( ) { } ; ,"

# text, line, column, width of the caret, sentence
TABLE = [
    # lexer
    ("pin 'a' when always", 1, 5, 1,
     f"found ''', expected {SIGNS}; write strings between \"double quotes\""),
    ('pin "a when always', 1, 5, 14,
     'found a string without an end, expected a closing " in the same line'),
    ('pin "a\\n" when always', 1, 7, 2,
     "found '\\n', expected one of \\\" \\\\ \\xNN behind a backslash; "
     "write \\\\ for a backslash itself"),
    ("pin a when size > -5B", 1, 19, 1,
     f"found '-', expected {SIGNS}; negative numbers have no use here"),
    ("pin a when uid = 1234567890123456789", 1, 18, 19,
     "found '1234567890123456789', expected a number of at most 18 characters"),
    ("pin a when path ~ /pacs/**", 1, 19, 1,
     f"found '/', expected {SIGNS}; put paths between \"double quotes\""),
    ("# one\n\n\tpin a when age > 3d & always", 3, 22, 1,
     f"found '&', expected {SIGNS}; write and"),
    ("pin a\u00a0when always", 1, 6, 1, f"found '?', expected {SIGNS}"),
    # statements
    ("migrat x", 1, 1, 6,
     f"found 'migrat', expected {STATEMENTS}; did you mean 'migrate'?"),
    ("always", 1, 1, 6, f"found 'always', expected {STATEMENTS}"),
    (POOL + "relase r from tier ssd", 2, 1, 6,
     f"found 'relase', expected {STATEMENT}; did you mean 'release'?"),
    ("pin", 1, 4, 1, 'found the end of the text, expected the name of the rule; '
     'such as "imaging"'),
    ("pin when always", 1, 5, 4, "found 'when', expected the name of the rule; "
     'as a name it is written "when", in quotes'),
    ('pin "" when always', 1, 5, 2, f'found "", expected {NAME}'),
    (f'pin "{"x" * 65}" when always', 1, 5, 67, f'found "{"x" * 65}", expected {NAME}'),
    ('pin "a\\x07" when always', 1, 5, 7, f'found "a\\x07", expected {NAME}'),
    ("pin a wen always", 1, 7, 3,
     "found 'wen', expected 'when' and a condition; did you mean 'when'?"),
    ("migrate m p when always", 1, 11, 1, "found 'p', expected 'to' and the name of a pool"),
    ("migrate m to 5 when always", 1, 14, 1,
     "found '5', expected the name of a pool; such as \"imaging\""),
    # pools
    ("pool p copies 2", 1, 8, 6, "found 'copies', expected '{' and the pool's settings"),
    ("pool p { copies 2", 1, 18, 1, "found the end of the text, expected ';' or '}'"),
    ("pool p { copies 2;", 1, 8, 1,
     "found a '{' without its '}', expected '}' behind the pool's settings"),
    ("pool p { }", 1, 10, 1, "found '}', expected 'copies' in pool \"p\"; such as: copies 2"),
    ("pool p { head 1MiB }", 1, 20, 1,
     "found '}', expected 'copies' in pool \"p\"; such as: copies 2"),
    ("pool p { copy 2 }", 1, 10, 4,
     f"found 'copy', expected {SETTINGS} or '}}'; did you mean 'copies'?"),
    ("pool p { copies 2; scrubb every 2y }", 1, 20, 6,
     f"found 'scrubb', expected {SETTINGS} or '}}'; did you mean 'scrub'?"),
    ("pool p { copies 2; parity 1; parity 1 }", 1, 30, 6,
     "found a second 'parity' in one pool, expected each setting once"),
    ("pool p { copies 2; parity 3 }", 1, 27, 1,
     "found '3', expected 0 to 2 parity discs of a magazine"),
    ("pool p { copies 2; parity many }", 1, 27, 4,
     "found 'many', expected the number of parity discs, 0 to 2"),
    ("pool p { copies 2; offsite 2 }", 1, 28, 1,
     "found '2', expected fewer than the pool's copies (2): one at least stays at hand"),
    ("pool p { copies 2; offsite 1.5 }", 1, 28, 3, "found '1.5', expected a whole number"),
    ("pool p { copies 2; scrub evry 2y }", 1, 26, 4,
     "found 'evry', expected 'every' and a duration, or 'never'; did you mean 'every'?"),
    ("pool p { copies 2; scrub every 2 }", 1, 32, 1,
     f"found '2', expected {DURATION}; 2 has no unit"),
    ("pool p { copies 2; scrub every 0s }", 1, 32, 2,
     "found '0s', expected a duration greater than nothing; "
     "write 'scrub never' to have discs not read again"),
    ("pool p { copies 2; scrub every 2y sample 10 }", 1, 42, 2,
     "found '10', expected a share greater than 0%, at most 100%; write 10%"),
    ("pool p { copies 2; scrub every 2y sample 0% }", 1, 42, 2,
     "found '0%', expected a share greater than 0%, at most 100%"),
    ("pool p { copies 2; scrub every 2y sample half }", 1, 42, 4,
     "found 'half', expected a share of a disc such as 10%"),
    ("pool p { copies 2; recovery 51% }", 1, 29, 3, "found '51%', expected a share of 0% to 50%"),
    ("pool p { copies 2; recovery 5 }", 1, 29, 1,
     "found '5', expected a share of 0% to 50%; write 5%"),
    ("pool p { copies 2; reclaim if dead }", 1, 28, 2,
     "found 'if', expected 'when' dead > PERCENT"),
    ("pool p { copies 2; reclaim when ded > 70% }", 1, 33, 3,
     "found 'ded', expected 'dead'; did you mean 'dead'?"),
    ("pool p { copies 2; reclaim when dead < 70% }", 1, 38, 1, "found '<', expected '>'"),
    ("pool p { copies 2; reclaim when dead > 70 }", 1, 40, 2,
     "found '70', expected a share between 0% and 100%; write 70%"),
    ("pool p { copies 2; reclaim when dead > 100% }", 1, 40, 4,
     "found '100%', expected a share between 0% and 100%"),
    ("pool p { copies 2; copies 3 }", 1, 20, 6,
     "found a second 'copies' in one pool, expected each setting once"),
    ("pool p { copies two }", 1, 17, 3, "found 'two', expected the number of copies"),
    ("pool p { copies 2.5 }", 1, 17, 3, "found '2.5', expected a whole number"),
    ("pool p { copies 0 }", 1, 17, 1, "found '0', expected 1 to 16 copies"),
    ("pool p { copies 17 }", 1, 17, 2, "found '17', expected 1 to 16 copies"),
    ("pool p { copies 5 }", 1, 17, 1,
     "found a pool asking for more copies than magazines (5 copies), expected at most 4, "
     "as many as the library has magazines; each copy goes to a magazine of its own: "
     "ask for fewer copies or add magazines"),
    ("pool p { copies 2 spread magazin }", 1, 26, 7,
     "found 'magazin', expected 'magazine'; did you mean 'magazine'?"),
    ("pool p { copies 2; burn full }", 1, 25, 4, "found 'full', expected 'when'"),
    ("pool p { copies 2; burn when ful }", 1, 30, 3,
     "found 'ful', expected 'full' or 'oldest'; did you mean 'full'?"),
    ("pool p { copies 2; burn when full or full }", 1, 38, 4,
     "found 'full' twice, expected 'full or oldest > DURATION'"),
    ("pool p { copies 2; burn when oldest < 7d }", 1, 37, 1, "found '<', expected '>'"),
    ("pool p { copies 2; burn when oldest > 7 }", 1, 39, 1,
     f"found '7', expected {DURATION}; 7 has no unit"),
    ("pool p { copies 2; head 2GiB }", 1, 25, 4, "found '2GiB', expected a head of at most 1GiB"),
    ("pool p { copies 2; head 64k }", 1, 25, 3,
     f"found '64k', expected {SIZE}; did you mean 'kB' or 'KiB'?"),
    (POOL + POOL, 2, 6, 1, 'found a second pool "p", expected only the one of line 1; '
     "give each pool a name of its own"),
    # conditions
    (MIGRATE, 2, 20, 1, "found the end of the text, expected a condition such as age > 30d"),
    (MIGRATE + "agee > 30d", 2, 21, 4,
     f"found 'agee', expected a fact: one of {FACT_NAMES}; did you mean 'age'?"),
    (MIGRATE + "age 30d", 2, 25, 3,
     "found '30d', expected one of < <= > >= = != ~ behind 'age'"),
    (MIGRATE + "uid == 3", 2, 25, 2, "found '==', expected a comparison; write a single ="),
    (MIGRATE + "age = 30d", 2, 25, 1, "found '=', expected one of < <= > >= behind 'age'; "
     "no file has exactly that value; write > or <"),
    (MIGRATE + 'size ~ "3"', 2, 26, 1, f"found '~', expected one of {COUNTS} behind 'size'; "
     "~ compares path and name with a pattern"),
    (MIGRATE + "age > 30", 2, 27, 2, f"found '30', expected {DURATION}; 30 has no unit"),
    (MIGRATE + "age > 30 d", 2, 30, 1,
     "found 'd', expected the unit right behind the number; write 30d without a space"),
    (MIGRATE + "age > 30days", 2, 27, 6,
     f"found '30days', expected {DURATION}; did you mean 'd'?"),
    (MIGRATE + "age > 5KiB", 2, 27, 4, f"found '5KiB', expected {DURATION}"),
    (MIGRATE + "size > 3KB", 2, 28, 3,
     f"found '3KB', expected {SIZE}; did you mean 'kB' or 'KiB'?"),
    (MIGRATE + "heat < 5%", 2, 28, 2,
     "found '5%', expected a number such as 0.5; heat has no unit"),
    (MIGRATE + "uid = root", 2, 27, 4, "found 'root', expected a whole number"),
    (MIGRATE + "uid = 5s", 2, 27, 2, "found '5s', expected a whole number"),
    (MIGRATE + "state = migratd", 2, 29, 7,
     f"found 'migratd', expected {STATES}; did you mean 'migrated'?"),
    (MIGRATE + "state > migrated", 2, 27, 1, "found '>', expected one of = != behind 'state'"),
    (MIGRATE + "path ~ pacs", 2, 28, 4,
     "found 'pacs', expected a path between quotes such as \"/pacs/**\""),
    (MIGRATE + 'path ~ "*.dcm"', 2, 28, 7, 'found "*.dcm", expected a pattern; '
     "paths start at the root of the mount: write /*.dcm or **/*.dcm"),
    (MIGRATE + 'path ~ "/pacs/"', 2, 28, 8, 'found "/pacs/", expected a pattern; '
     "a file's path has no '/' at its end; write /pacs/**"),
    (MIGRATE + 'path ~ "/a[b"', 2, 28, 6, 'found "/a[b", expected a pattern; '
     "a '[' without its ']'; write \\\\[ for the sign itself"),
    (MIGRATE + 'path ~ "/a.{b,c}"', 2, 28, 10, 'found "/a.{b,c}", expected a pattern; '
     "'{' is kept for later; write one condition for each, with or"),
    (MIGRATE + 'path = "pacs"', 2, 28, 6,
     'found "pacs", expected a path from the root such as "/pacs/a"'),
    (MIGRATE + 'name ~ "a/*"', 2, 28, 5, 'found "a/*", expected a pattern; '
     "a name has no '/'; write path ~ for whole paths"),
    (MIGRATE + "(age > 3d or always", 2, 21, 1,
     "found a '(' without its ')', expected ')' further on"),
    (MIGRATE + "(age > 3d) )", 2, 32, 1, f"found ')', expected {STATEMENT}"),
    (MIGRATE + "age > 3d and", 2, 33, 1,
     "found the end of the text, expected a condition such as age > 30d"),
    (MIGRATE + "age > 3d nd always", 2, 30, 2,
     f"found 'nd', expected {STATEMENT}; did you mean 'and'?"),
    (MIGRATE + "(" * 51 + "always", 2, 71, 1,
     "found '(', expected at most 50 parentheses and 'not' in each other"),
    # names
    ("migrate m to q when always\n" + POOL, 1, 14, 1,
     'found pool "q", expected a pool that exists: p; '
     "write a 'pool' statement for it"),
    ("pool imaging { copies 1 }\nmigrate m to imagin when always", 2, 14, 6,
     'found pool "imagin", expected a pool that exists: imaging; did you mean \'imaging\'?'),
    ("pin a when always\npin a when always", 2, 5, 1,
     'found a second rule "a", expected only the one of line 1; '
     "give each rule a name of its own"),
    # release
    ("release r from ssd when", 1, 16, 3,
     "found 'ssd', expected 'tier' and the name of a tier"),
    ("release r from tier sdd when tier.used > 85% until tier.used < 70%", 1, 21, 3,
     'found tier "sdd", expected a tier that exists: raid, ssd; did you mean \'ssd\'?'),
    (RELEASE + "when tier.used > 85", 1, 44, 1,
     "found the end of the text, expected 'until' tier.used < PERCENT"),
    (RELEASE + "when tier.used > 85 until tier.used < 70%", 1, 42, 2,
     "found '85', expected a share between 0% and 100%; write 85%"),
    (RELEASE + "when tier.used > 120% until tier.used < 70%", 1, 42, 4,
     "found '120%', expected a share between 0% and 100%"),
    (RELEASE + "when tier.used > 70% until tier.used < 70%", 1, 64, 3,
     "found '70%', expected less than 70%, at which release starts"),
    (RELEASE + "when tier.usd > 70% until tier.used < 60%", 1, 30, 8,
     "found 'tier.usd', expected 'tier.used'; did you mean 'tier.used'?"),
    (RELEASE + "when tier.used > 80% until tier.used < 70% order by heat,", 1, 82, 1,
     "found the end of the text, expected a fact such as heat"),
    (RELEASE + "when tier.used > 80% until tier.used < 70% order by path", 1, 77, 4,
     "found 'path', expected a fact that is a number or a time"),
    (RELEASE + "when tier.used > 80% until tier.used < 70% order by het", 1, 77, 3,
     f"found 'het', expected a fact: one of {FACT_NAMES}; did you mean 'heat'?"),
    (RELEASE + "when tier.used > 80% until tier.used < 70%\nrelease s from tier ssd "
     "when tier.used > 90% until tier.used < 80%", 2, 21, 3,
     'found a second release rule for tier "ssd", expected only the one of line 1; join them to '
     "one"),
    # further facts
    (MIGRATE + "owner = nobodyy", 2, 29, 7,
     "found 'nobodyy', expected a user that this machine knows; "
     "compare uid with a number where it does not"),
    (MIGRATE + "owner > ann", 2, 27, 1, "found '>', expected one of = != behind 'owner'"),
    (MIGRATE + "owner = 5", 2, 29, 1, "found '5', expected the name of a user"),
    (MIGRATE + "group = wheell", 2, 29, 6,
     "found 'wheell', expected a group that this machine knows; "
     "compare gid with a number where it does not"),
    (MIGRATE + "tier = sssd", 2, 28, 4,
     "found 'sssd', expected a tier that exists: raid, ssd; did you mean 'ssd'?"),
    (MIGRATE + "residency = gone", 2, 33, 4, f"found 'gone', expected {STATES}"),
    (MIGRATE + "mime = 5", 2, 28, 1,
     'found \'5\', expected a MIME type between quotes such as "image/*"'),
    (MIGRATE + 'mime ~ "image/[a"', 2, 28, 10, 'found "image/[a", expected a pattern; '
     "a '[' without its ']'; write \\\\[ for the sign itself"),
    (MIGRATE + 'xattr = "x"', 2, 27, 1,
     'found \'=\', expected the name of an attribute such as "user.project"'),
    (MIGRATE + 'xattr "user.a" > "x"', 2, 36, 1,
     "found '>', expected one of ~ = != behind 'xattr'"),
    (MIGRATE + 'xattr "user.a" = x', 2, 38, 1, "found 'x', expected a value between quotes"),
    (RELEASE + "when tier.used > 80% until tier.used < 70% order by owner", 1, 77, 5,
     "found 'owner', expected a fact that is a number or a time"),
    # times and rates
    (MIGRATE + "always between 20 and 6", 2, 36, 2,
     "found '20', expected a time of day such as 20:00, from 00:00 to 24:00"),
    (MIGRATE + "always between 20:00 to 6:00", 2, 42, 2,
     "found 'to', expected 'and' a time of day"),
    (MIGRATE + "always between 20:00 and 24:01", 2, 46, 5,
     "found '24:01', expected a time of day such as 20:00, from 00:00 to 24:00"),
    (MIGRATE + "always between 20:60 and 24:00", 2, 36, 5,
     "found '20:60', expected a time of day such as 20:00, from 00:00 to 24:00"),
    (MIGRATE + "always between 20:00 and 20:00", 2, 46, 5,
     "found '20:00', expected another time than it starts at; "
     "leave 'between' away where the rule always works"),
    (MIGRATE + "always betwen 20:00 and 20:00", 2, 28, 6,
     f"found 'betwen', expected {STATEMENT}; did you mean 'between'?"),
    (MIGRATE + "always between 20:00 and 06:00 and age > 3d", 2, 52, 3,
     f"found 'and', expected {STATEMENTS}; "
     "conditions stand before 'between', 'at most' and 'suspend'"),
    (MIGRATE + "always at least 5/s", 2, 31, 5, "found 'least', expected 'most' RATE, or NUMBER at "
     "once"),
    (MIGRATE + "always at most 5", 2, 37, 1,
     "found the end of the text, expected 'at' once, or a rate such as 5/s"),
    (MIGRATE + "always at most 5 at one", 2, 41, 3,
     "found 'one', expected 'once'; did you mean 'once'?"),
    (MIGRATE + "always at most 0/s", 2, 36, 3, "found '0/s', expected more than nothing; "
     "leave the rule away where nothing is to be done"),
    (MIGRATE + "always at most 0 at once", 2, 36, 1, "found '0', expected more than nothing; "
     "leave the rule away where nothing is to be done"),
    (MIGRATE + "always at most 5/sec", 2, 36, 5, "found '5/sec', expected a rate such as 5/s"),
    (MIGRATE + "always at most 5MiBs/s", 2, 36, 7,
     "found '5MiBs/s', expected a rate such as 100MiB/s; did you mean 'MiB'?"),
    (MIGRATE + "always at most 5/s at most 6/h", 2, 40, 2,
     "found a second 'rate of files' in one rule, expected each once"),
    (MIGRATE + "always suspend at 10", 2, 39, 2,
     "found '10', expected a share between 0% and 100%; write 10%"),
    # further statements
    ("demote d from tier ssd to tier ssd when always", 1, 32, 3,
     'found tier "ssd", which is not slower than tier "ssd", expected a slower tier; '
     "the order of tiers in the configuration is that of their speed"),
    ("demote d from tier raid to ssd when always", 1, 28, 3,
     "found 'ssd', expected 'tier' and the name of a tier"),
    ("recall-ahead a up to 0 when always", 1, 22, 1, "found '0', expected more than nothing; "
     "leave the rule away where nothing is to be done"),
    ("recall-ahed a when always", 1, 1, 11,
     f"found 'recall-ahed', expected {STATEMENTS}; did you mean 'recall-ahead'?"),
    ("retain a when always", 1, 10, 4, "found 'when', expected 'for' and a duration"),
    ("retain a for 30 when always", 1, 14, 2, f"found '30', expected {DURATION}; 30 has no unit"),
    ("retain a for 0s when always", 1, 14, 2, "found '0s', expected more than nothing; "
     "leave the rule away where nothing is to be done"),
    ("limit a recalls by user nobodyy when always at most 1/s", 1, 25, 7,
     "found 'nobodyy', expected a user that this machine knows"),
    ("limit a recalls by usr ann when always at most 1/s", 1, 20, 3,
     "found 'usr', expected 'user' or 'program', each once; did you mean 'user'?"),
    ("limit a recalls when always", 1, 28, 1,
     "found the end of the text, expected 'at' most RATE, or at most NUMBER at once"),
    # contradictions
    (POOL + "pool q { copies 1 } migrate a to p when age > 3d migrate b to q when age > 4d and "
     "size > 1B", 2, 58, 1,
     "found rule 'b', which contradicts rule 'a' of line 2: that one matches all its files before "
     "and does something else, expected rules that each decide for some files; "
     "put the narrower rule first, or change one of them"),
    ("retain a for 30y when always\nretain b for 15y when path ~ \"/a/**\"", 2, 8, 1,
     "found rule 'b', which contradicts rule 'a' of line 1: that one matches all its files before "
     "and does something else, expected rules that each decide for some files; "
     "put the narrower rule first, or change one of them"),
    (RELEASE + "when tier.used > 80% until tier.used < 70% pin a when always", 1, 9, 1,
     "found rule 'r', which contradicts rule 'a' of line 1: that one pins every file, "
     "expected files that may be released; give the pin a condition, or remove one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "width", "sentence"), TABLE)
def test_wrong_policies(text: str, line: int, column: int, width: int, sentence: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(text, "site.policy", ("raid", "ssd"), 4)
    error = caught.value
    first, *excerpt = str(error).split("\n")
    assert first == f"site.policy:{line}:{column}: {sentence}"
    assert (error.line, error.column) == (line, column)
    assert excerpt[1].count("^") == width
    assert excerpt[1].index("^") == len(excerpt[1].rstrip("^")) == 4 + column - 1


def test_the_caret_stands_below_the_word_behind_tabs() -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy("pin x when\n\tagee > 3d\tand always\n", "p", set(), None)
    assert caught.value.excerpt == "    \tagee > 3d\tand always\n    \t^^^^"


def test_the_whole_message() -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(MIGRATE + "agee > 30d", "/etc/hsmfs/site.policy", set(), None)
    assert str(caught.value) == (
        "/etc/hsmfs/site.policy:2:21: found 'agee', expected a fact: one of "
        f"{FACT_NAMES}; did you mean 'age'?\n"
        "    migrate m to p when agee > 30d\n"
        "                        ^^^^"
    )


def test_control_characters_do_not_reach_the_terminal() -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy("pin \x1b[31m when always", "p", set(), None)
    assert "\x1b" not in str(caught.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(PolicyError, match=r"p:2:3: found a byte that is not UTF-8"):
        load_policy("# \n# \udcff", "p", set(), None)


def test_too_much_text() -> None:
    with pytest.raises(PolicyError, match="found 1000001 characters"):
        load_policy("#" * 1_000_001, "p", set(), None)


def test_too_many_statements() -> None:
    text = "".join(f"pin p{number} when always\n" for number in range(1001))
    with pytest.raises(PolicyError, match=r"p:1001:1: .*at most 1000 statements"):
        load_policy(text, "p", set(), None)
