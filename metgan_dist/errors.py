"""The two ways a job ends before its work is done, apart from a bug, and how they are found in what Ray raises."""


class UserError(Exception):
    """A mistake only the user can mend: one line that says what, where and what to do (exit code 2).

    The message names the file or the recipe field first, for example
    ``/data/a.tif: the file is empty; copy it again or remove it from the data set``.
    """


class TrainingStopped(Exception):
    """A run that stopped itself, for example because a loss was not finite (exit code 1).

    The message names the step, the player, the term and the last good checkpoint; `images` is how far the run was.
    """

    def __init__(self, reason: str, images: int = 0) -> None:
        super().__init__(reason)
        self.images = images


class DamagedFile(UserError):
    """A file or chunk that exists but cannot be read; `data.damaged: skip` leaves it out and counts it."""


def understood(error: BaseException) -> BaseException:
    """The error that a person can act on, dug out of Ray's wrappings; without one, the first that is not Ray's own."""
    queue, seen = [error], list[BaseException]()
    while queue:
        current = queue.pop(0)
        if any(current is other for other in seen):
            continue
        seen.append(current)
        if isinstance(current, UserError | TrainingStopped) and not hasattr(current, "cause"):
            return current
        failures = getattr(current, "worker_failures", None) or {}
        inner = [getattr(current, "cause", None), current.__cause__, current.__context__, *failures.values()]
        queue += [e for e in inner if isinstance(e, BaseException)]
    return next((found for found in seen if not type(found).__module__.startswith("ray.")), error)
