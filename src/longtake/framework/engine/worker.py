"""Worker thread: jobs done in order beside the thread that gives them, a bounded number of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, final

Job: TypeAlias = Callable[[], None]


@final
class Worker:
    """Does jobs one after another in a thread of its own, in the order in which they are given.

    What a job raises is raised, once, where the next one is given or waited for; the jobs behind
    it are dropped, and later ones are done again. To be used from one thread.

    Args:
        name: Of the thread.
        most: Jobs that are given and not done; whoever gives one more waits. So what they hold is
            bounded.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: deque[Job] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def give(self, job: Job) -> None:
        """Have a job done after those that were given before; waits while there are too many.

        Raises:
            BaseException: What an earlier job has raised; this one is dropped as well.
        """
        with self._changed:
            self._wait_until(lambda: len(self._jobs) < self._most)
            self._jobs.append(job)
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: a process that is interrupted does not wait for it.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until all jobs are done.

        Raises:
            BaseException: What one of them has raised.
        """
        with self._changed:
            self._wait_until(lambda: not self._jobs)

    def close(self) -> None:
        """End the thread, after the jobs that it has. Raises nothing; call ``wait`` before."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def drop(self) -> None:
        """Forget the jobs but for the one that is under way, and wait for none."""
        with self._changed:
            self._closed = True
            while len(self._jobs) > 1:
                self._jobs.pop()
            self._changed.notify_all()

    def _wait_until(self, done: Callable[[], bool]) -> None:
        """Wait, with the lock, until something is so; raise what a job has raised before."""
        while self._error is None and not done():
            self._changed.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # What an error's frames hold is let go with it: they must not hold the error.
            del error

    def _run(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """Do the next job when there is one; return whether there was.

        A function of its own: between two jobs nothing of the last one is held.
        """
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            if not self._jobs:
                return False
            job = self._jobs[0]
        error: BaseException | None = None
        try:
            job()
        except BaseException as raised:  # whatever it is, the thread that gave the job raises it
            error = raised
        with self._changed:
            if error is None:
                self._jobs.popleft()
            else:
                self._error = error
                self._jobs.clear()
            self._changed.notify_all()
        error = None  # see _wait_until
        return True
