"""The coordinator: a router, a pool and a policy, ready to carry out runs."""

from __future__ import annotations

import asyncio
import secrets
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from ..contracts.errors import LiveCallRefused, PoolInvalid, UsageError
from ..contracts.events import Sink
from ..contracts.parts import ToolResult
from ..contracts.pool import ALL_ROLES, Agent, Pool
from ..contracts.provider import Provider, ResponseFormat, Sampling, Tool, ToolChoice
from ..contracts.routing import Role, Window
from ..contracts.transcript import Transcript, TranscriptSource
from ..pools.authority import Authority
from ..pools.files import DEMO, check_agents, find_pool
from ..pools.secrets import resolve_pool
from ..providers.registry import make_provider, provider_factory, row_of
from ..rules import machine
from ..rules.budgets import Limits
from ..rules.policy import Policy, Review
from ..tracing.log import TraceLog
from ..tracing.redaction import Redactor
from .breaker import CircuitBreaker
from .client import AgentClient
from .listeners import OnTurnText
from .result import RunResult
from .retry import RetryPolicy
from .run import ReadsTranscripts, Reviewer, Run, RunSetup
from .seats import seats_for
from .state import RunState, WorkerOptions
from .tools import Callables, ToolBox

if TYPE_CHECKING:
    from ..routing.router import RouterIdentity


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file to which every run's events are appended; ``content`` keeps texts as well, not their hashes alone."""

    path: Path
    content: bool = False


class Coordinator:
    """Takes tasks to verified answers. Runs do not know of each other.

        >>> with load_router("nano") as router, Coordinator(router) as coordinator:
        ...     result = coordinator.run("First think about it: what is the sum of all multiples of 3 below 100?")
        >>> result.status
        <RunStatus.ACCEPTED: 'accepted'>

    ``run`` is for programs without an event loop, one run at a time; ``arun`` runs in the caller's loop, any number at
    once. A context manager: ``with`` for ``run``, ``async with`` for ``arun``.

    Args:
        router: a loaded router, or anything else that reads transcripts; who made it closes it.
        pool: the agents: a pool, the name of one, or a TOML file.
        policy: a policy, or the name of a shipped one.
        limits: what each run may spend.
        environment: where ``env:`` references of the pool are looked up, such as ``os.environ``.
        live: whether providers outside this process may be called.
        trace: where events are kept, if anywhere.
        retry: how often and how patiently a failed call is repeated.
        refs: what governs the runs, in every event; see ``governed``.
        config_dir: where the user's own pools lie.
        providers: makes the provider of an agent from it and its key; the registry's by default.

    Raises:
        PoolInvalid: there is no such pool, it has more slots than the router, or lacks prices that a limit needs.
        PolicyInvalid: there is no such policy.
        LiveCallRefused: the pool needs providers outside this process, and ``live`` is off.
        SecretUnavailable: a key is not where the pool says.
    """

    def __init__(
        self,
        router: ReadsTranscripts,
        pool: Pool | str | Path = DEMO,
        policy: Policy | str = "default",
        *,
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
        live: bool = False,
        trace: TraceFile | None = None,
        retry: RetryPolicy | None = None,
        refs: Mapping[str, str] | None = None,
        config_dir: Path | None = None,
        providers: Callable[[Agent, str | None], Provider] | None = None,
    ) -> None:
        self.pool = pool if isinstance(pool, Pool) else find_pool(pool, config_dir)
        self.policy = Policy.named(policy) if isinstance(policy, str) else policy
        self.limits = limits or Limits()
        self._live = live
        check_agents(self.pool.agents, f"pool {self.pool.name!r}")
        identity: RouterIdentity | None = getattr(router, "identity", None)
        if identity is not None:
            _check_size(self.pool, len(identity.labels), identity.artifact.name)
        self._router_info = _describe_router(identity)
        self._guard = identity.guard if identity else None
        _check_prices(self.pool, self.limits)
        if providers is None:
            self._check_live(agent for agent in self.pool.agents if row_of(agent.provider).is_offline is False)
        self._secrets = resolve_pool(self.pool, environment or {})
        self._redactor = Redactor(tuple(self._secrets.values()))
        if providers is None:
            for agent in self.pool.agents:
                provider_factory(agent)  # the imports come now, and not in the middle of somebody's event loop
        self._make_provider = providers or make_provider
        self._router = router if self.pool.window is None else _through(router, self.pool)
        self._trace = trace
        self._log = None if trace is None else TraceLog(trace.path)
        self._retry = retry
        self._refs = dict(refs or {})
        self._needs_review = False
        self._breakers = {agent.slot: CircuitBreaker() for agent in self.pool.agents}
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, AgentClient]] = WeakKeyDictionary()
        self._runner: asyncio.Runner | None = None
        self._one_run = threading.Lock()

    @classmethod
    def governed(
        cls,
        router: ReadsTranscripts,
        authority: Authority,
        policy: Policy | str = "default",
        *,
        live: bool = False,
        trace: TraceFile | None = None,
    ) -> Coordinator:
        """A coordinator whose pool, limits and references come from an authority; it reads no environment.

        No run can loosen the limits, or leave out the review that the authority requires.
        """
        limits, refs = authority.limits, authority.refs
        coordinator = cls(router, authority.pool, policy, limits=limits, live=live, trace=trace, refs=refs)
        coordinator._needs_review = authority.needs_review
        return coordinator

    @property
    def asks_review(self) -> bool:
        """Whether a person has to release the answers, by the policy or by the authority."""
        return self._needs_review or self.policy.review is Review.ASK

    def run(self, task: TranscriptSource, **options: Any) -> RunResult:
        """Carry out one run; see ``arun``, whose options it takes. Threads that call it take turns.

        Raises:
            UsageError: an event loop is running here: await ``arun``.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise UsageError("an event loop is running in this thread: await arun(...) instead of calling run(...)")
        with self._one_run:
            self._runner = self._runner or asyncio.Runner()
            return self._runner.run(self.arun(task, **options))

    async def arun(
        self,
        task: TranscriptSource,
        *,
        policy: Policy | str | None = None,
        limits: Limits | None = None,
        deny: Collection[int | str] = (),
        roles: Collection[Role] = ALL_ROLES,
        tools: Callables | Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        sampling: Sampling | None = None,
        deadline_s: float | None = None,
        run_id: str | None = None,
        last_slot: int | None = None,
        worker_slot: int | None = None,
        reviewer: Reviewer | None = None,
        refs: Mapping[str, str] | None = None,
        sinks: Sequence[Sink] = (),
        on_text: OnTurnText | None = None,
    ) -> RunResult:
        """Carry out one run. What goes wrong in it is in the result, with the best answer so far.

        Tools, their choice, the response format and the sampling reach Workers alone. Tools that are callables are
        called by the run; with definitions alone it stops where a Worker calls one, and ``aresume`` goes on with the
        results.

        What a sink or ``on_text`` raises ends the run, and is raised here unless it is a TrinityError.

        Args:
            task: a prompt, a list of messages, or a ``Transcript``; the last message is what is asked.
            policy: for this run, in place of the coordinator's.
            limits: for this run, beside the coordinator's: the tighter one counts.
            deny: agents that take no part in this run, by slot or by name.
            roles: the roles that may be taken in this run; with the Worker's alone, every turn is one.
            tools: functions by name, or definitions of tools.
            tool_choice: whether Workers may or must call one.
            response_format: the form of the Workers' answers.
            sampling: how Workers sample, where it differs from what their agents say.
            deadline_s: seconds for this run, where that is less than the limits allow.
            run_id: the run's name in its trace; a fresh one by default.
            last_slot: the agent that spoke last in this conversation, for a policy that keeps agents.
            worker_slot: the agent that takes the first turn as Worker, without a route: the one whose calls the task's
                last messages answer.
            reviewer: asks a person to release the answer, where the policy says ``review = "ask"``; without one the run
                stops there, and ``aresume`` goes on with the decision.
            refs: further names in the trace of what governs this run, such as a caller's ``traceparent``.
            sinks: who else is told of every event, besides the trace.
            on_text: told the turn and each piece of text as it arrives; with it, providers stream.

        Raises:
            TranscriptError: the task is not a transcript.
            PoolInvalid, PolicyInvalid: pool and policy do not go together, or nobody is left who may answer.
            LiveCallRefused: a provider turns out to leave this process, and ``live`` is off.
            EnvironmentUnavailable: a provider's package is missing, or the trace cannot be opened.
            UsageError: ``deny`` names an agent that there is not, or a limit is not valid.
        """
        transcript = Transcript.of(task)
        box, definitions = _tools(tools)
        limits = (limits or Limits()).within(self.limits).within(Limits(wall_time_s=deadline_s))
        _check_prices(self.pool, limits)
        rules = Policy.named(policy) if isinstance(policy, str) else policy or self.policy
        if self._needs_review:
            rules = rules.with_options(review=Review.ASK)
        seats = seats_for(self.pool, transcript, has_tools=bool(definitions), deny=deny, roles=roles)
        rules = rules.guarded_by(self._guard, seats)
        state = RunState(
            run_id=run_id or uuid.uuid4().hex,
            machine=machine.begin(_with_seed(rules), transcript, seats, last_slot, worker_slot),
            limits=limits,
            options=WorkerOptions(definitions, tool_choice, response_format, sampling or Sampling()),
        )
        return await self._carry_out(state, self._setup(box, reviewer, sinks, on_text), refs=refs)

    async def aresume(
        self,
        state: RunState,
        results: Sequence[ToolResult] = (),
        *,
        decision: machine.Decision | None = None,
        tools: Callables | None = None,
        reviewer: Reviewer | None = None,
        deadline_s: float | None = None,
        refs: Mapping[str, str] | None = None,
        sinks: Sequence[Sink] = (),
        on_text: OnTurnText | None = None,
    ) -> RunResult:
        """Go on with a run that waited for tools, by the same agent in the same turn, or for a review. See ``arun``.

        Args:
            state: that of the result; it may come from another process, by ``to_json`` and ``from_json``.
            results: one for each of its calls.
            decision: a person's, for a run that waited for one.
            tools: what the run calls by itself from now on.
            deadline_s: seconds from now, where that is less than what is left of the limits.
            reviewer: as in ``arun``, and so are the others.
            sinks: who is told of every event.
            on_text: told each piece of text.

        Raises:
            UsageError: the results are not one for each call, no decision came where one is due, or the state is of
                another pool.
        """
        left_s = None if deadline_s is None else state.totals.wall_s + deadline_s
        state = replace(state, limits=state.limits.within(Limits(wall_time_s=left_s)))
        setup = self._setup(ToolBox(tools) if tools else None, reviewer, sinks, on_text)
        return await self._carry_out(state, setup, results, decision, refs)

    def _setup(
        self, tools: ToolBox | None, reviewer: Reviewer | None, sinks: Sequence[Sink], on_text: OnTurnText | None
    ) -> RunSetup:
        return RunSetup(
            router=self._router,
            router_info=self._router_info,
            pool=self.pool,
            tools=tools,
            reviewer=reviewer,
            sinks=sinks,
            on_text=on_text,
        )

    async def _carry_out(
        self,
        state: RunState,
        setup: RunSetup,
        results: Sequence[ToolResult] = (),
        decision: machine.Decision | None = None,
        refs: Mapping[str, str] | None = None,
    ) -> RunResult:
        clients = await self._open_clients()
        async with self._open_trace(state.part_id, {**self._refs, **(refs or {})}) as trace:
            setup = replace(setup, clients=clients, sinks=[*trace, *setup.sinks])
            return await Run(setup, state).carry_out(results, decision)

    def close(self) -> None:
        """Close what ``run`` has opened, once the run that is under way has ended."""
        with self._one_run:
            runner, self._runner = self._runner, None
            if runner is not None:
                runner.run(self.aclose())
                runner.close()

    async def aclose(self) -> None:
        """Close what ``arun`` has opened in this event loop."""
        await _close(self._clients.pop(asyncio.get_running_loop(), {}).values())

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Coordinator:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _open_clients(self) -> dict[int, AgentClient]:
        """The clients of this event loop: connections belong to the loop that opened them."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            clients: dict[int, AgentClient] = {}
            try:
                for agent in self.pool.agents:
                    clients[agent.slot] = self._make_client(agent)
                self._check_live(client.agent for client in clients.values() if client.provider.is_live)
            except BaseException:
                await _close(clients.values())
                raise
            self._clients[loop] = clients
        return self._clients[loop]

    def _make_client(self, agent: Agent) -> AgentClient:
        secret = self._secrets.get(agent.slot)
        provider = self._make_provider(agent, secret)
        return AgentClient(agent, provider, self._retry, self._breakers[agent.slot], secret)

    def _check_live(self, agents: Iterable[Agent]) -> None:
        names = [f"{agent.name} ({agent.provider})" for agent in agents]
        if names and not self._live:
            raise LiveCallRefused(
                f"pool {self.pool.name!r} calls providers outside this process, which may cost money: "
                f"{', '.join(names)}; nothing has allowed that yet (live=True in Python)"
            )

    @asynccontextmanager
    async def _open_trace(self, run_id: str, refs: Mapping[str, str]) -> AsyncIterator[list[Sink]]:
        if self._log is None or self._trace is None:
            yield []
            return
        content = self._trace.content
        async with self._log.run(run_id, keep_content=content, secrets=self._redactor, refs=refs) as trace:
            yield [trace]


def _describe_router(identity: RouterIdentity | None) -> dict[str, Any]:
    if identity is None:
        return {}
    return {
        "artifact": identity.artifact.name,
        "adapter_ref": identity.artifact.adapter_ref,
        "base_ref": identity.artifact.base_ref,
        "profile": identity.profile,
        "device": identity.device,
        "dtype": identity.dtype,
        "receipt": identity.receipt.recorded if identity.receipt else None,
    }


async def _close(clients: Iterable[AgentClient]) -> None:
    """Close every client, whatever the others do."""
    await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


@runtime_checkable
class _HasWindows(Protocol):
    def through(self, window: Window | None, /) -> ReadsTranscripts: ...


def _through(router: ReadsTranscripts, pool: Pool) -> ReadsTranscripts:
    """The router as it reads through the pool's window."""
    if not isinstance(router, _HasWindows):
        raise PoolInvalid(f"pool {pool.name!r} asks for a reading window, which {type(router).__name__} does not have")
    return router.through(pool.window)


def _check_size(pool: Pool, slots: int, artifact: str) -> None:
    if len(pool) > slots:
        raise PoolInvalid(
            f"pool {pool.name!r} has {len(pool)} agents, and {artifact} chooses among {slots} slots: take some out"
        )


def _check_prices(pool: Pool, limits: Limits) -> None:
    unpriced = [agent.name for agent in pool.agents if agent.price is None]
    if limits.cost_usd is not None and unpriced:
        raise PoolInvalid(
            f"a limit of cost cannot be kept: pool {pool.name!r} states no price for {', '.join(unpriced)}; "
            "add price = { input = ..., output = ... } in USD per million tokens"
        )


def _tools(tools: Callables | Sequence[Tool]) -> tuple[ToolBox | None, tuple[Tool, ...]]:
    """What calls the tools in the run, where it can, and what a model is told of them."""
    if isinstance(tools, Mapping):
        box = ToolBox(tools)
        return box, box.definitions
    return None, tuple(tools)


def _with_seed(policy: Policy) -> Policy:
    """A policy that samples gets a seed of its own for each run, recorded in the trace."""
    return policy.with_options(seed=secrets.randbelow(2**53)) if policy.samples and policy.seed is None else policy
