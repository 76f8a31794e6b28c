"""An emulated library of BD-R discs."""

from hsmfs.changer.emulated.faults import Fault
from hsmfs.changer.emulated.library import EmulatedLibrary, EmulatedTransport, open_library

__all__ = ["EmulatedLibrary", "EmulatedTransport", "Fault", "open_library"]
