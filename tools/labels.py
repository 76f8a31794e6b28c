"""Sheets of labels with barcodes, to print on A4: PDF or SVG.

A sheet has 3 columns of 8 labels of 70 x 37 mm, as label sheets are sold. Library readers take
Code 39 (ISO/IEC 16388) without check character; what it has no characters for becomes Code 128
(ISO/IEC 15417).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from reportlab.graphics import renderPDF, renderSVG
from reportlab.graphics.barcode import createBarcodeDrawing
from reportlab.graphics.shapes import Drawing, Group, String
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from hsmfs.errors import CallerError

Code = Literal["auto", "39", "128"]
COLUMNS: Final = 3
ROWS: Final = 8
SHEET: Final = COLUMNS * ROWS
LABELS_MAX: Final = 10_000
MM: Final = 72 / 25.4
PAGE_MM: Final = (210.0, 297.0)
LABEL_MM: Final = (70.0, 37.0)
TOP_MM: Final = (PAGE_MM[1] - ROWS * LABEL_MM[1]) / 2
BAR_HEIGHT_MM: Final = 13.0
BAR_WIDTHS_MM: Final = (0.38, 0.33, 0.25, 0.19)
"""Of the narrow bar: the widest that fits; 0.19 mm is what common readers still take."""
QUIET_BARS: Final = 10
"""Narrow bars of white that a reader wants on each side."""
RATIO: Final = 2.5
"""Wide bar to narrow bar of Code 39."""
CODE_39: Final = re.compile(r"[0-9A-Z\-. $/+%]+")
CODE_128: Final = re.compile(r"[\x20-\x7e]+")
FONT: Final = "Helvetica"
TITLE_POINTS: Final = 14
TEXT_POINTS: Final = 8
SUFFIXES: Final = (".pdf", ".svg")


@dataclass(frozen=True, slots=True)
class Label:
    """One sticker."""

    code: str
    """What a reader reads, and people too, in large."""
    text: str = ""
    """Small, below."""


def write_sheets(
    path: Path, labels: Sequence[Label], skip: int = 0, code: Code = "auto"
) -> list[Path]:
    """The files that were written: one PDF, or an SVG for each sheet.

    ``skip`` places of the first sheet are used up already. CallerError for what cannot be
    printed so that a reader reads it.
    """
    if path.suffix not in SUFFIXES:
        raise CallerError(f"{path}: found {path.suffix or 'no suffix'!r}, expected .pdf or .svg")
    if not 0 <= skip < SHEET:
        raise CallerError(f"skip: found {skip}, expected 0 to {SHEET - 1}")
    if not 1 <= len(labels) <= LABELS_MAX:
        raise CallerError(f"found {len(labels)} labels, expected 1 to {LABELS_MAX}")
    drawn = [_sticker(label, code) for label in labels]
    pages = [_page(drawn[max(0, at) : at + SHEET], -min(0, at)) for at in _starts(len(drawn), skip)]
    try:
        return _write_pdf(path, pages) if path.suffix == ".pdf" else _write_svg(path, pages)
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror}") from None


def _starts(count: int, skip: int) -> range:
    """The first label of each sheet; below 0 where places are left free."""
    return range(-skip, count, SHEET)


def _page(stickers: Sequence[Group], free: int) -> Drawing:
    width, height = (side * MM for side in PAGE_MM)
    page = Drawing(width, height)
    for place, sticker in enumerate(stickers, free):
        row, column = divmod(place, COLUMNS)
        left = column * LABEL_MM[0] * MM
        bottom = height - (TOP_MM + (row + 1) * LABEL_MM[1]) * MM
        page.add(Group(sticker, transform=(1, 0, 0, 1, left, bottom)))
    return page


def _sticker(label: Label, code: Code) -> Group:
    """With its origin at the lower left corner."""
    bars, width_mm = _bars(label.code, code)
    left = (LABEL_MM[0] - width_mm) / 2 * MM
    return Group(
        Group(*bars.contents, transform=(1, 0, 0, 1, left, 11 * MM)),
        _line(label.code, 27, TITLE_POINTS),
        _line(label.text, 5.5, TEXT_POINTS),
    )


def _line(text: str, bottom_mm: float, points: float) -> String:
    """In the middle, smaller where it is long."""
    room = (LABEL_MM[0] - 6) * MM
    wide = stringWidth(text, FONT, points)
    size = points * min(1.0, room / wide) if wide else points
    middle = LABEL_MM[0] / 2 * MM
    return String(middle, bottom_mm * MM, text, fontName=FONT, fontSize=size, textAnchor="middle")


def _bars(text: str, code: Code) -> tuple[Any, float]:
    """The barcode with the widest bars that fit, and its width in mm."""
    kind = _kind(text, code)
    for narrow in BAR_WIDTHS_MM:
        options: dict[str, Any] = {"ratio": RATIO, "checksum": 0} if kind == "Standard39" else {}
        bars = createBarcodeDrawing(
            kind, value=text, barWidth=narrow * MM, barHeight=BAR_HEIGHT_MM * MM,
            humanReadable=False, quiet=False, **options,
        )  # fmt: skip
        width_mm = bars.width / MM
        if width_mm + 2 * QUIET_BARS * narrow <= LABEL_MM[0]:
            return bars, width_mm
    raise CallerError(
        f"{text!r} is too long for a label of {LABEL_MM[0]:g} mm: its bars would be narrower than "
        f"{BAR_WIDTHS_MM[-1]} mm"
    )


def _kind(text: str, code: Code) -> str:
    if code in ("auto", "39") and CODE_39.fullmatch(text):
        return "Standard39"
    if code == "39":
        raise CallerError(
            f"{text!r}: Code 39 has capital letters, digits, space and - . $ / + % only; "
            "use --code 128"
        )
    if not CODE_128.fullmatch(text):
        raise CallerError(f"{text!r}: found characters that are not ASCII, no barcode has them")
    return "Code128"


def _write_pdf(path: Path, pages: Sequence[Drawing]) -> list[Path]:
    canvas = Canvas(str(path), pagesize=tuple(side * MM for side in PAGE_MM), invariant=1)
    canvas.setTitle("labels")
    for page in pages:
        renderPDF.draw(page, canvas, 0, 0)
        canvas.showPage()
    canvas.save()
    return [path]


def _write_svg(path: Path, pages: Sequence[Drawing]) -> list[Path]:
    """``labels.svg``, or ``labels-1.svg`` and so on where there are several sheets."""
    paths = [path]
    if len(pages) > 1:
        paths = [path.with_stem(f"{path.stem}-{number}") for number in range(1, len(pages) + 1)]
    for file, page in zip(paths, pages, strict=True):
        file.write_text(_in_millimetres(renderSVG.drawToString(page)), "utf-8")
    return paths


def _in_millimetres(svg: str) -> str:
    """A page of true size, which a size without unit is not."""
    width, height = (side * MM for side in PAGE_MM)
    size = f'width="{PAGE_MM[0]:g}mm" height="{PAGE_MM[1]:g}mm"'
    box = f'viewBox="0 0 {width:.3f} {height:.3f}"'
    made, count = re.subn(r'width="[\d.]+" height="[\d.]+"( [^>]*?)viewBox="[\d. ]+"',
                          rf"{size}\1{box}", svg, count=1)  # fmt: skip
    assert count == 1, "reportlab writes another head of an SVG file than it did"
    return made
