"""Answers that come later, and who makes them come."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from hsmfs.errors import FsError

T = TypeVar("T")
U = TypeVar("U")


class Cancellable(Protocol):
    """Something that was planned and can be called off."""

    def cancel(self) -> None:
        """Call it off."""


class Executor(Protocol):
    """How the engine gets work done off its thread, and later."""

    def submit(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``work`` in a worker thread, then ``done`` on the engine's thread."""

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> Cancellable:
        """Run ``fn`` on the engine's thread after a while."""

    def run_soon(self, fn: Callable[[], None]) -> None:
        """Run ``fn`` on the engine's thread; may be called from any thread."""


class Deferred(Generic[T]):
    """A value or an FsError that is there later; set at most once.

    ``on_cancel`` is called when the one who waits gives up.
    """

    __slots__ = ("_callbacks", "_error", "_value", "done", "on_cancel")

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self.done = False
        self.on_cancel = on_cancel
        self._value: T | None = None
        self._error: FsError | None = None
        self._callbacks: list[Callable[[Deferred[T]], None]] = []

    def set(self, value: T) -> None:
        """The answer is here; without effect after a cancel."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: FsError) -> None:
        """The answer is an error; without effect after a cancel."""
        if not self.done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def then(self, callback: Callable[[Deferred[T]], None]) -> None:
        """Call when done; at once if it is."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """The value; raises the FsError."""
        assert self.done, "not done yet"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    @property
    def error(self) -> FsError | None:
        """The error, if that is the answer."""
        return self._error

    def cancel(self) -> None:
        """Nobody waits any more: EINTR, and the hook is told."""
        if self.done:
            return
        if self.on_cancel is not None:
            self.on_cancel()
        self.fail(FsError(errno.EINTR, "interrupted"))

    def map(self, change: Callable[[T], U]) -> Deferred[U]:
        """The changed value, when this one is here."""
        answer: Deferred[U] = Deferred(on_cancel=self.cancel)

        def go_on(done: Deferred[T]) -> None:
            if done.error is not None:
                answer.settle_like(done)
            elif not answer.done:
                try:
                    value = change(done.result())
                except BaseException:
                    answer.fail(FsError(errno.EIO))  # else who waits would wait for ever
                    raise
                answer.set(value)

        self.then(go_on)
        return answer

    def settle_like(self, other: Deferred[Any]) -> None:
        """Fail as ``other`` did; for chains whose values differ."""
        assert other.error is not None
        self.fail(other.error)


class _Planned:
    def __init__(self, when_s: float, fn: Callable[[], None]) -> None:
        self.when_s = when_s
        self.fn = fn
        self.cancelled = False

    def cancel(self) -> None:
        """Call it off."""
        self.cancelled = True


class InlineExecutor:
    """For tests: work is done at once, time moves by ``advance``."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._planned: list[_Planned] = []

    def submit(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run both at once."""
        try:
            value = work()
        except Exception as error:
            done(None, error)
        else:
            done(value, None)

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> Cancellable:
        """Keep until ``advance``."""
        planned = _Planned(self.now_s + delay_s, fn)
        self._planned.append(planned)
        return planned

    def run_soon(self, fn: Callable[[], None]) -> None:
        """Run at once."""
        fn()

    def advance(self, seconds: float) -> None:
        """Let time pass and run what is due, in order."""
        end_s = self.now_s + seconds
        while due := [p for p in self._planned if p.when_s <= end_s]:
            first = min(due, key=lambda planned: planned.when_s)
            self._planned.remove(first)
            self.now_s = max(self.now_s, first.when_s)
            if not first.cancelled:
                first.fn()
        self.now_s = end_s


def as_fs_error(error: BaseException) -> FsError:
    """What an operation answers when its work failed."""
    if isinstance(error, FsError):
        return error
    if isinstance(error, OSError):
        return FsError(error.errno or errno.EIO, str(error))
    return FsError(errno.EIO, f"{type(error).__name__}: {error}")


def following(first: Deferred[Any]) -> Deferred[Any]:
    """A deferred of one's own that ends as ``first`` does; cancelling it harms nobody."""
    answer: Deferred[Any] = Deferred()
    first.then(lambda done: answer.settle_like(done) if done.error else answer.set(None))
    return answer


def chain(first: Deferred[Any] | Any, then: Callable[[], T | Deferred[T]]) -> T | Deferred[T]:
    """``then`` after ``first``, whichever of them must wait."""
    if not isinstance(first, Deferred):
        return then()
    answer: Deferred[T] = Deferred(on_cancel=first.cancel)

    def go_on(done: Deferred[Any]) -> None:
        if answer.done:
            return
        if done.error is not None:
            answer.settle_like(done)
            return
        try:
            value = then()
        except FsError as error:
            answer.fail(error)
            return
        if isinstance(value, Deferred):
            answer.on_cancel = value.cancel
            value.then(
                lambda last: answer.settle_like(last) if last.error else answer.set(last.result())
            )
        else:
            answer.set(value)

    first.then(go_on)
    return answer
