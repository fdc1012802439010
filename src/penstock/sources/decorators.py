"""``@task``: a plain function becomes something that can be enqueued, and stays a plain function.

A task is known by its name alone: a message or a row never names a module, so nothing is imported because
somebody wrote it into a broker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from penstock.core.exceptions import ConfigError, UnknownTaskError
from penstock.job.models import NAME
from penstock.options import JobOptions
from penstock.signatures import supplied, wrapped

if TYPE_CHECKING:
    from penstock.handle import JobHandle

P = ParamSpec("P")
R = TypeVar("R")


class Call:
    """One intended job: what to run, with which input and which options. Made by `Task.call` and its like.

    ``spec`` is the kind's own Struct; it has been checked when a Call exists.
    """

    __slots__ = ("kind", "name", "options", "spec")

    def __init__(self, kind: str, name: str, spec: Any, options: JobOptions) -> None:
        self.kind = kind
        self.name = name
        self.spec = spec
        self.options = options

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


class Mark(NamedTuple):
    """That a function is to be run by a schedule of this name: with which input, and what was said beside."""

    name: str
    inputs: dict[str, Any]
    options: dict[str, Any]


class Task(Generic[P, R]):
    """A registered function. Calling it calls the function; `enqueue` makes a job of it."""

    def __init__(
        self,
        fn: Callable[P, R],
        name: str,
        options: JobOptions,
        *,
        aliases: Sequence[str] = (),
        concurrency: int | None = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.aliases = tuple(aliases)
        """Names that it had before: jobs that were made under one run it too."""
        self.concurrency = concurrency
        """How many of its jobs run at once in one worker process; None: as many as there is room for."""
        self.defaults = options
        self.marks: tuple[Mark, ...] = ()
        whole = inspect.signature(fn)
        mine = supplied(fn)
        self.signature = _without(whole, mine) if mine else whole
        """What a call takes: without what the function's dependencies supply."""
        self.depends = bool(mine) or wrapped(fn)
        """Whether the function has dependencies."""
        self.is_async = inspect.iscoroutinefunction(fn)
        self.__doc__ = fn.__doc__
        self.__name__ = getattr(fn, "__name__", name)
        self.__qualname__ = getattr(fn, "__qualname__", name)
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    @property
    def source(self) -> tuple[str, int]:
        """Where the function stands: file and line."""
        code = inspect.unwrap(self.fn).__code__  # type: ignore[attr-defined]
        return code.co_filename, code.co_firstlineno

    @property
    def importable(self) -> bool:
        """Whether another process can find the function again: it stands at the top of a file."""
        file = self.source[0]
        return "<locals>" not in self.__qualname__ and not file.startswith("<")

    def call(self, *args: Any, **kwargs: Any) -> Call:
        """Check the arguments and return the call, ready for `JobQueue.enqueue_many`.

        Raises:
            ArgumentsError: they do not fit the signature; names the parameter.
            PayloadError: they are not plain data.
        """
        from penstock.runners.task import task_spec

        return Call("task", self.name, task_spec(self, args, kwargs), self.defaults)

    def options(self, **options: Any) -> BoundTask[P, R]:
        """Return this task with job options set, leaving all keywords of its `enqueue` to the function."""
        return BoundTask(self, JobOptions.parse(options))

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue on the queue that the configuration names (see `JobQueue.from_config`)."""
        from penstock.client import JobQueue

        return JobQueue.default().enqueue(self.call(*args, **kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """`enqueue`, awaited."""
        from penstock.bridge import in_thread

        return await in_thread(self.enqueue, *args, **kwargs)


class BoundTask(Generic[P, R]):
    """A task with job options: ``hello.options(delay="10m").enqueue("Ada")``."""

    def __init__(self, task: Task[P, R], options: JobOptions) -> None:
        self.task = task
        self.chosen = options

    def call(self, *args: Any, **kwargs: Any) -> Call:
        """See `Task.call`."""
        call = self.task.call(*args, **kwargs)
        return Call(call.kind, call.name, call.spec, call.options.merged(self.chosen))

    def options(self, **options: Any) -> BoundTask[P, R]:
        """Add further options."""
        return BoundTask(self.task, self.chosen.merged(JobOptions.parse(options)))

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """See `Task.enqueue`."""
        from penstock.client import JobQueue

        return JobQueue.default().enqueue(self.call(*args, **kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """`enqueue`, awaited."""
        from penstock.bridge import in_thread

        return await in_thread(self.enqueue, *args, **kwargs)


class TaskRegistry(Mapping[str, Task[Any, Any]]):
    """The tasks of this process, by name. What is looked up may be an alias, what is listed is not."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._staged: tuple[int, dict[str, Task[Any, Any]]] | None = None

    @property
    def _seen(self) -> dict[str, Task[Any, Any]]:
        staged = self._staged
        return self._tasks if staged is None or staged[0] != get_ident() else staged[1]

    def __getitem__(self, name: str) -> Task[Any, Any]:
        seen = self._seen
        found = seen.get(name)
        if found is None:
            found = next((task for task in tuple(seen.values()) if name in task.aliases), None)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def names(self) -> tuple[str, ...]:
        """List every name that a job may have which can run here, aliases included."""
        return tuple(sorted({name for task in tuple(self._seen.values()) for name in (task.name, *task.aliases)}))

    def names_of(self, name: str) -> tuple[str, ...]:
        """Return every name of the task that has this one; of a task that is not known here this one alone."""
        task = self.get(name)
        return (name,) if task is None else (task.name, *task.aliases)

    def find(self, name: str) -> Task[Any, Any]:
        """Return the task of that name. Raises `UnknownTaskError`, which lists the known ones."""
        try:
            return self[name]
        except KeyError:
            raise UnknownTaskError(name, self._seen) from None

    def add(self, task: Task[Any, Any]) -> None:
        """Register a task; the same function again (a reload) takes the old one's place.

        Raises:
            ConfigError: another function has that name already, or one of its aliases; nothing is changed.
        """
        for name in (task.name, *task.aliases):
            taken = self.get(name)
            if taken is not None and taken.name != task.name:
                raise ConfigError(
                    f"the name {name!r} of task {task.name!r} ({_place(task)}) is taken by task {taken.name!r} "
                    f"({_place(taken)}); a name or an alias stands for one task"
                )
        there = self._seen.get(task.name)
        if there is not None and there.importable and task.importable and not _same(there, task):
            raise ConfigError(
                f"two tasks are named {task.name!r}: {_place(there)} and {_place(task)}; "
                f'give one of them a name of its own: @task(name="...")'
            )
        self._seen[task.name] = task

    def discard(self, name: str) -> None:
        """Forget a task, if it is there: its file is gone."""
        self._seen.pop(name, None)

    @contextmanager
    def replacing(self, modules: Collection[str]) -> Generator[None]:
        """Let modules register their tasks anew: what they no longer have is gone afterwards, if nothing is raised.

        Until then, and for good if something is, all other threads see the tasks as they were: a worker runs them on
        while a file takes its time.
        """
        if self._staged is not None:  # a file that loads another one: the outer one decides
            yield
            return
        before = dict(self._tasks)
        mine = {name for name, task in before.items() if task.__module__ in modules}
        anew = {name: task for name, task in before.items() if name not in mine}
        self._staged = (get_ident(), anew)
        try:
            yield
        except BaseException:
            # What it imported has registered its own tasks, and stays imported.
            for name, task in anew.items():
                if task.__module__ not in modules:
                    self._tasks.setdefault(name, task)
            raise
        else:
            self._tasks = anew | {name: task for name, task in self._tasks.items() if name not in before}
        finally:
            self._staged = None


def _check_name(name: Any, task: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"@task {task}: {name!r} is not a name: 1 to 200 of A-Z a-z 0-9 _ . : - / [ ] < >")


def _aliases(given: Any, task: str) -> tuple[str, ...]:
    several = (given,) if isinstance(given, str) else tuple(given)
    for alias in several:
        _check_name(alias, task)
    return tuple(alias for alias in dict.fromkeys(several) if alias != task)


def _concurrency(given: Any, task: str) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given > 0):
        return given
    raise ConfigError(f"@task {task}: concurrency is {given!r}; write how many of its jobs may run at once, 1 or more")


def _without(signature: inspect.Signature, names: Collection[str]) -> inspect.Signature:
    taken = [parameter for name, parameter in signature.parameters.items() if name not in names]
    return signature.replace(parameters=taken)


def _place(task: Task[Any, Any]) -> str:
    file, line = task.source
    return f"{file}:{line}"


def _same(one: Task[Any, Any], other: Task[Any, Any]) -> bool:
    return one.__qualname__ == other.__qualname__ and one.source[0] == other.source[0]


TASKS = TaskRegistry()


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(
    *, name: str | None = None, aliases: Sequence[str] = (), concurrency: int | None = None, **options: Any
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(
    fn: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    aliases: Sequence[str] = (),
    concurrency: int | None = None,
    **options: Any,
) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
    """Register a function as a task: ``@task`` or ``@task(max_attempts=3, timeout="5m", queue="etl")``.

    The options are the job options of `JobOptions`, as defaults for each job of this task. Without ``name`` the
    function's own name is the task's name.

    Args:
        fn: the function.
        name: the task's name.
        aliases: names that the task had before: jobs, schedules and callers that still use one reach it.
        concurrency: how many of its jobs run at once in one worker process. (``limits`` counts over all workers.)
        options: see above.

    Raises:
        ConfigError: an option is unknown or wrong, or the name or an alias is taken by another function.
    """

    def register(fn: Callable[P, R]) -> Task[P, R]:
        called = name or fn.__name__
        _check_name(called, called)
        registered = Task(
            fn, called, JobOptions.parse_for_task(options, called), aliases=_aliases(aliases, called),
            concurrency=_concurrency(concurrency, called),
        )  # fmt: skip
        if registered.depends:
            from penstock.dependencies.declared import check

            registered.defaults = check(fn, called, registered.signature).merged(registered.defaults)
        TASKS.add(registered)
        return registered

    return register if fn is None else register(fn)
