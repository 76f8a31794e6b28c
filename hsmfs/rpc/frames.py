"""Frames on a byte stream: 4-byte big-endian length, then one msgpack body."""

from __future__ import annotations

import struct
from typing import Final

import msgspec
import trio

from hsmfs.errors import TransientError
from hsmfs.rpc.messages import FRAME_BYTES_MAX, Frame

_LENGTH: Final = struct.Struct(">I")
_RECEIVE_BYTES: Final = 64 * 1024
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Frame)


class FrameError(TransientError):
    """The peer sent what is no frame; the connection is of no more use."""


def encode(frame: Frame) -> bytes:
    """One frame as bytes; CallerError-sized frames are split by their makers."""
    body = _encoder.encode(frame)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameError(f"frame of {len(body)} bytes, expected at most {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


class FrameStream:
    """Frames over a trio stream; one sender at a time is ensured here."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lock = trio.Lock()
        self._buffer = bytearray()

    async def send(self, frame: Frame) -> None:
        """Raises TransientError when the peer is gone."""
        data = encode(frame)
        async with self._lock:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise TransientError("the connection was lost") from error
            except trio.Cancelled:
                # Part of the frame may be out: what follows it would be garbage.
                await trio.aclose_forcefully(self._stream)
                raise

    async def receive(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        header = await self._exactly(_LENGTH.size)
        if header is None:
            return None
        (length,) = _LENGTH.unpack(header)
        if length > FRAME_BYTES_MAX:
            raise FrameError(
                f"frame of {length} bytes announced, at most {FRAME_BYTES_MAX} allowed"
            )
        body = await self._exactly(length)
        if body is None:
            raise FrameError("the stream ended inside a frame")
        try:
            frame: Frame = _decoder.decode(body)
            return frame
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise FrameError(f"malformed frame: {error}") from error

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()
