"""The coordinator: a router, a pool and a policy, ready to carry out runs."""

from __future__ import annotations

import asyncio
import secrets
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from ..contracts.errors import LiveCallRefused, PoolInvalid, UsageError
from ..contracts.events import Sink
from ..contracts.pool import Agent, Pool
from ..contracts.transcript import Transcript, TranscriptSource
from ..pools.authority import Authority
from ..pools.files import DEMO, check_agents, find_pool
from ..pools.secrets import resolve_pool
from ..providers.registry import make_provider, provider_factory, row_of
from ..routing.router import Router
from ..rules.budgets import Limits
from ..rules.policy import Policy
from ..tracing.jsonl import JsonlTrace
from .breaker import CircuitBreaker
from .guard import GuardedProvider
from .result import RunResult
from .retry import AgentClient, RetryPolicy
from .run import OnText, Run, RunSetup


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
        router: a loaded router; who made it closes it.
        pool: the agents: a pool, the name of one, or a TOML file.
        policy: a policy, or the name of a shipped one.
        limits: what each run may spend.
        environment: where ``env:`` references of the pool are looked up, such as ``os.environ``.
        live: whether providers outside this process may be called.
        trace: where events are kept, if anywhere.
        retry: how often and how patiently a failed call is repeated.
        refs: what governs the runs, in every event; see ``governed``.
        config_dir: where the user's own pools lie.

    Raises:
        PoolInvalid: there is no such pool, it has more slots than the router, or lacks prices that a limit needs.
        PolicyInvalid: there is no such policy.
        LiveCallRefused: the pool needs providers outside this process, and ``live`` is off.
        SecretUnavailable: a key is not where the pool says.
    """

    def __init__(
        self,
        router: Router,
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
    ) -> None:
        self.pool = pool if isinstance(pool, Pool) else find_pool(pool, config_dir)
        self.policy = Policy.named(policy) if isinstance(policy, str) else policy
        self.limits = limits or Limits()
        self._live = live
        check_agents(self.pool.agents, f"pool {self.pool.name!r}")
        _check_size(self.pool, len(router.identity.labels), router.identity.artifact.name)
        _check_prices(self.pool, self.limits)
        self._check_live(agent for agent in self.pool.agents if row_of(agent.provider).is_offline is False)
        self._secrets = resolve_pool(self.pool, environment or {})
        for agent in self.pool.agents:
            provider_factory(agent)  # the imports come now, and not in the middle of somebody's event loop
        self._router = router
        self._trace = trace
        self._retry = retry
        self._refs = dict(refs or {})
        self._breakers = {agent.slot: CircuitBreaker() for agent in self.pool.agents}
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, AgentClient]] = WeakKeyDictionary()
        self._runner: asyncio.Runner | None = None
        self._one_run = threading.Lock()

    @classmethod
    def governed(
        cls,
        router: Router,
        authority: Authority,
        policy: Policy | str = "default",
        *,
        live: bool = False,
        trace: TraceFile | None = None,
    ) -> Coordinator:
        """A coordinator whose pool, limits and references come from an authority; it reads no environment."""
        return cls(router, authority.pool, policy, limits=authority.limits, live=live, trace=trace, refs=authority.refs)

    def run(
        self,
        task: TranscriptSource,
        *,
        run_id: str | None = None,
        last_slot: int | None = None,
        sinks: Sequence[Sink] = (),
        on_text: OnText | None = None,
    ) -> RunResult:
        """Carry out one run; see ``arun``. Threads that call it take turns.

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
            return self._runner.run(self.arun(task, run_id=run_id, last_slot=last_slot, sinks=sinks, on_text=on_text))

    async def arun(
        self,
        task: TranscriptSource,
        *,
        run_id: str | None = None,
        last_slot: int | None = None,
        sinks: Sequence[Sink] = (),
        on_text: OnText | None = None,
    ) -> RunResult:
        """Carry out one run. What goes wrong in it is in the result, with the best answer so far.

        What a sink or ``on_text`` raises ends the run, and is raised here unless it is a TrinityError.

        Args:
            task: a prompt, a list of messages, or a ``Transcript``; the last message is what is asked.
            run_id: the run's name in its trace; a fresh one by default.
            last_slot: the agent that spoke last in this conversation, for a policy that keeps agents.
            sinks: who else is told of every event, besides the trace.
            on_text: told the turn and each piece of text as it arrives; with it, providers stream.

        Raises:
            TranscriptError: the task is not a transcript.
            PoolInvalid, PolicyInvalid: pool and policy do not go together.
            LiveCallRefused: a provider turns out to leave this process, and ``live`` is off.
            EnvironmentUnavailable: a provider's package is missing, or the trace cannot be opened.
        """
        transcript = Transcript.of(task)
        clients = await self._open_clients()
        name = run_id or uuid.uuid4().hex
        trace = self._open_trace(name)
        try:
            setup = RunSetup(
                router=self._router,
                router_info=self._describe_router(),
                pool=self.pool,
                clients=clients,
                policy=_with_seed(self.policy),
                limits=self.limits,
                sinks=[*trace, *sinks],
                on_text=on_text,
            )
            return await Run(setup, name, transcript, last_slot).carry_out()
        finally:
            for sink in trace:
                sink.close()

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
            made: dict[int, AgentClient] = {}
            try:
                for agent in self.pool.agents:
                    made[agent.slot] = self._make_client(agent)
                self._check_live(client.agent for client in made.values() if client.provider.is_live)
            except BaseException:
                await _close(made.values())
                raise
            self._clients[loop] = made
        return self._clients[loop]

    def _make_client(self, agent: Agent) -> AgentClient:
        secret = self._secrets.get(agent.slot)
        provider = GuardedProvider(agent, make_provider(agent, secret), secret)
        return AgentClient(agent, provider, self._retry, self._breakers[agent.slot])

    def _check_live(self, agents: Iterable[Agent]) -> None:
        names = [f"{agent.name} ({agent.provider})" for agent in agents]
        if names and not self._live:
            raise LiveCallRefused(
                f"pool {self.pool.name!r} calls providers outside this process, which may cost money: "
                f"{', '.join(names)}; nothing has allowed that yet (live=True in Python)"
            )

    def _open_trace(self, run_id: str) -> list[Sink]:
        if self._trace is None:
            return []
        hidden = tuple(self._secrets.values())
        return [JsonlTrace(self._trace.path, run_id, keep_content=self._trace.content, secrets=hidden, refs=self._refs)]

    def _describe_router(self) -> dict[str, Any]:
        identity = self._router.identity
        return {
            "artifact": identity.artifact.name,
            "adapter_ref": identity.artifact.adapter_ref,
            "base_ref": identity.artifact.base_ref,
            "profile": identity.profile,
            "device": identity.device,
            "dtype": identity.dtype,
        }


async def _close(clients: Iterable[AgentClient]) -> None:
    """Close every client, whatever the others do."""
    await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


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


def _with_seed(policy: Policy) -> Policy:
    """A policy that samples gets a seed of its own for each run, recorded in the trace."""
    return policy.with_options(seed=secrets.randbelow(2**53)) if policy.samples and policy.seed is None else policy
