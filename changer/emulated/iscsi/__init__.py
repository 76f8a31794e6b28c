"""The emulated library as an iSCSI target (RFC 7143)."""

from hsmfs.changer.emulated.iscsi.target import IscsiTarget

__all__ = ["IscsiTarget"]
