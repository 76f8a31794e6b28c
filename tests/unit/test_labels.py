"""Label sheets are read back by a barcode reader that is not ours (zbar)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hsmfs.errors import CallerError
from hsmfs.tools.labelcommand import counted
from hsmfs.tools.labels import SHEET, Code, Label, write_sheets

DPI = "200"


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: zbar-tools, poppler-utils, "
                        "librsvg2-bin)")  # fmt: skip


def read_back(image: Path) -> list[tuple[str, str]]:
    """Kind and text of every barcode of a picture, as a reader sees them."""
    done = subprocess.run(
        ["zbarimg", "--quiet", "-Sdisable", "-Scode39.enable", "-Scode128.enable", str(image)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = [line.partition(":") for line in done.stdout.splitlines()]
    return sorted((kind, text) for kind, _, text in found)


def test_a_pdf_of_two_sheets(tmp_path: Path) -> None:
    needs("zbarimg", "pdftoppm")
    codes = counted("HSM00090", SHEET)
    labels = [Label(code, "hospital-1  M01 place 3  hospital-1-000042") for code in codes]
    (path,) = write_sheets(tmp_path / "labels.pdf", labels, skip=5)
    subprocess.run(
        ["pdftoppm", "-r", DPI, "-gray", str(path), str(tmp_path / "page")], check=True, timeout=60
    )
    first, second = sorted(tmp_path.glob("page*"))
    assert read_back(first) == [("CODE-39", code) for code in codes[: SHEET - 5]]
    assert read_back(second) == [("CODE-39", code) for code in codes[SHEET - 5 :]]


def test_svg_sheets_have_their_true_size(tmp_path: Path) -> None:
    needs("zbarimg", "rsvg-convert")
    texts = ["M01", "M02", "hsm-00001", "Z" * 14, "lower-case-0123456789"]
    paths = write_sheets(tmp_path / "labels.svg", [Label(text) for text in texts])
    assert paths == [tmp_path / "labels.svg"]
    image = tmp_path / "page.png"
    subprocess.run(
        ["rsvg-convert", "-d", DPI, "-p", DPI, "-b", "white", "-o", str(image), str(paths[0])],
        check=True, timeout=60,
    )  # fmt: skip
    width, height = (int.from_bytes(image.read_bytes()[at : at + 4], "big") for at in (16, 20))
    assert abs(width - 210 / 25.4 * int(DPI)) < 2 and abs(height - 297 / 25.4 * int(DPI)) < 2
    kinds = {text: "CODE-39" if text.isupper() else "CODE-128" for text in texts}
    assert read_back(image) == sorted((kind, text) for text, kind in kinds.items())


def test_several_svg_sheets_are_several_files(tmp_path: Path) -> None:
    labels = [Label(code) for code in counted("A01", 30)]
    paths = write_sheets(tmp_path / "l.svg", labels)
    assert [path.name for path in paths] == ["l-1.svg", "l-2.svg"]
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    ("name", "text", "skip", "code", "words"),
    [
        ("l.png", "A", 0, "auto", "expected .pdf or .svg"),
        ("l.pdf", "A", 24, "auto", "skip: found 24, expected 0 to 23"),
        ("l.pdf", "abc", 0, "39", "Code 39 has capital letters"),
        ("l.pdf", "Ä1", 0, "auto", "not ASCII"),
        ("l.pdf", "A" * 40, 0, "auto", "too long for a label"),
        ("no/dir/l.pdf", "A", 0, "auto", "No such file or directory"),
        ("no/dir/l.svg", "A", 0, "auto", "No such file or directory"),
    ],
)
def test_what_cannot_be_printed_is_told(
    tmp_path: Path, name: str, text: str, skip: int, code: Code, words: str
) -> None:
    with pytest.raises(CallerError, match=words):
        write_sheets(tmp_path / name, [Label(text)], skip, code)
    assert not list(tmp_path.iterdir())


def test_numbers_go_on_at_their_width() -> None:
    assert counted("HSM0098L", 3) == ["HSM0098L", "HSM0099L", "HSM0100L"]
    assert counted("x", 1) == ["x"]
    for first, count, words in (("A98", 3, "do not fit into 2 digits"), ("AB", 2, "no number")):
        with pytest.raises(CallerError, match=words):
            counted(first, count)
