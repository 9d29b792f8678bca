"""The runs of a batch: a few at a time, each outcome written when it is there."""

from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import suppress

import anyio
from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agent_runtime import AgentContext, AgentExecutor, AgentResult, ErrorType
from agent_runtime_adapters.cli.batch_input import Asked, Input, Line
from agent_runtime_adapters.cli.batch_output import Output, document
from agent_runtime_adapters.cli.batch_plan import Plan
from agent_runtime_adapters.cli.batch_progress import Told, progress
from agent_runtime_adapters.cli.batch_summary import Tally
from agent_runtime_adapters.cli.exits import exit_code
from agent_runtime_adapters.cli.streaming import failed_run, settled
from agent_runtime_adapters.cli.terminal import notice

_SYNC_EVERY = 1.0  # seconds: what a machine that loses its power may forget


class Batch:
    """Runs what a plan wants; `stop` and `cancel` end it, and it is in order after both."""

    def __init__(
        self,
        executor: AgentExecutor,
        source: Input,
        plan: Plan,
        output: Output,
        tally: Tally,
        *,
        context: AgentContext,
        concurrency: int,
        timeout: float | None,
    ) -> None:
        self.executor = executor
        self._source = source
        self._plan = plan
        self._output = output
        self._tally = tally
        self._context = context
        self._concurrency = concurrency
        self._timeout = timeout
        self._running: dict[int, tuple[Line, Asked]] = {}
        self._stopped = self._cancelled = False

    @property
    def running(self) -> int:
        """How many runs are in flight."""
        return len(self.executor.runs)

    async def run(self, tell: Told) -> None:
        """Run them all; `tell` is called after each outcome, with the bug that it has shown first.

        Raises `CommandFailed` or `BrokenPipeError` when the output takes no more: what runs is cancelled then.
        """
        synced = anyio.current_time()
        async with (
            self.executor,
            self.executor.batch(self._contexts(), max_concurrency=self._concurrency) as done,
        ):
            async for index, result in done:
                if await self._kept(*self._running.pop(index), result):
                    tell(self._tally.add(result))
                if anyio.current_time() - synced > _SYNC_EVERY:
                    await to_thread.run_sync(self._output.sync)
                    synced = anyio.current_time()
        self._output.sync()

    def stop(self) -> None:
        """Begin no run any more; those in flight go on."""
        self._stopped = True

    async def cancel(self) -> None:
        """Cancel the runs in flight. They have no outcome: their lines are run again another time."""
        self._stopped = self._cancelled = True
        for run_id in tuple(self.executor.runs):
            self.executor.cancel(run_id)

    async def _kept(self, line: Line, asked: Asked, result: AgentResult) -> bool:
        if self._cancelled and result.error_type == ErrorType.CANCELLED:
            return False
        data = document(line, asked.id, result)
        if self._output.lasting:
            self._output.write(data)
        else:  # in a thread: a pipe that nobody reads for a while holds up no run
            await to_thread.run_sync(self._output.write, data, abandon_on_cancel=True)
        return True

    def _contexts(self) -> Iterator[AgentContext]:
        wanted = filter(self._plan.wants, self._source.lines())
        for index, line in enumerate(wanted):
            if self._stopped:
                return
            asked = line.asked()
            self._running[index] = line, asked
            yield self._asked(asked)

    def _asked(self, asked: Asked) -> AgentContext:
        return self._context.replace(
            current_task=asked.task,
            metadata=asked.metadata,
            user_id=self._context.user_id if asked.user_id is None else asked.user_id,
            tenant_id=self._context.tenant_id if asked.tenant_id is None else asked.tenant_id,
            deadline=float("inf") if self._timeout is None else anyio.current_time() + self._timeout,
        )


def run_batch(work: Batch, tally: Tally, total: int, *, bar: bool) -> int:
    """Run it, and return the exit code of the signal that ended it, 0 without one.

    After a signal no run begins, and those in flight have the executor's `shutdown_grace`; after another they are
    cancelled.
    """
    if not total:
        return 0
    tally.begin()
    with progress(tally, total, bar=bar) as tell, failed_run(), start_blocking_portal() as portal:
        return _ended(portal, portal.start_task_soon(work.run, tell), work)


def _ended(portal: BlockingPortal, future: Future[None], work: Batch) -> int:
    try:
        settled(future)
    except KeyboardInterrupt as interrupt:
        code = exit_code(interrupt)
    else:
        return 0
    with suppress(KeyboardInterrupt):
        work.stop()
        grace = work.executor.shutdown_grace
        with suppress(OSError):  # a terminal that was closed
            notice(f"ending: {work.running} runs have {grace:g} s; Ctrl-C again cancels them")
        wait((future,), timeout=grace)
    portal.call(work.cancel)
    settled(future)
    return code
