"""``trinity-mlx run``: a task to a verified answer, by the agents of a pool."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import AuthorityInvalid, PoolInvalid, UsageError
from .. import settings
from ..artifact_choice import recipe_for
from ..inputs import read_messages, read_prompt
from ..options import (
    NAME,
    PLACE,
    artifact_option,
    base_option,
    json_option,
    messages_option,
    policy_option,
    profile_option,
)
from ..output import note, print_json
from ..process import Failure, tell
from ..run_options import (
    LIMITS,
    limit_options,
    live_option,
    policy_options,
    setting_option,
    trace_content_option,
    trace_option,
)

if TYPE_CHECKING:
    from types import FrameType

    from ...contracts.transcript import Transcript
    from ...routing.router import Router
    from ...rules.machine import Decision
    from ...rules.policy import Policy
    from ...runs.coordinator import Coordinator
    from ...runs.result import RunResult
    from ...runs.run import ReviewRequest

SAMPLE_TASK = "First think about how to solve it: what is the sum of all multiples of 3 below 100?"
"""What the demonstration pool can solve; the task of a run that names none."""

_AT_TERMINAL = "the person at the terminal"


@click.command()
@click.argument("task", required=False)
@messages_option
@click.option(
    "--pool",
    type=NAME,
    envvar="TRINITY_POOL",
    metavar="NAME|FILE.toml",
    help="The agents, as `trinity-mlx pool --help` describes them; by default a demonstration that needs no network.",
)
@policy_option
@setting_option
@click.option("--max-turns", type=int, help="How many replies the run may take.")
@click.option("--agent", metavar="NAME", help="Let this agent take every turn; the router only chooses the role.")
@click.option("--strict", is_flag=True, help="Fail when an agent fails, instead of asking the next best.")
@limit_options
@live_option
@trace_option
@trace_content_option
@click.option("--authority", type=PLACE, metavar="FILE.json", help="Run under this authority.")
@artifact_option
@base_option
@profile_option
@json_option
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> None:
    """Take TASK to a verified answer: a router picks agent and role each turn, until a Verifier accepts.

    Without a task, a demonstration runs: no network, no key. Real models need a pool and --live.

    Exits with 5 when providers fail and with 6 when a limit is reached; the best answer so far is still printed.
    Ctrl-C ends a run in order: its trace is finished, and the command exits with 130.

    \b
    Examples:
      trinity-mlx run
      trinity-mlx run "Prove that 2 is the only even prime." --pool home.toml --live --max-cost 0.05
      trinity-mlx run --messages conversation.json --policy published --trace-out run.jsonl --json
    """
    asked = RunOptions(limits={name: options.pop(option) for option, (name, _, _) in LIMITS.items()}, **options)
    task = _task(asked)
    make_coordinator = _coordinator_maker(asked, ctx)
    recipe = recipe_for(asked.artifact, asked.base, asked.profile)
    with recipe.load() as router, make_coordinator(router) as coordinator:
        result = _carry_out(coordinator, task, asked.as_json)
    _print(result, asked.as_json)
    if result.error and "kind" in result.error.details:
        note(_who_limits(result.error.details["kind"], asked.authority))
    ctx.exit(result.exit_code)


@dataclass(frozen=True)
class RunOptions:
    """What the user said; ``limits`` by the names of ``Limits``, None where there is none."""

    task: str | None
    messages: str | None
    pool: str | None
    policy: str
    options: tuple[str, ...]
    max_turns: int | None
    agent: str | None
    strict: bool
    live: bool
    trace_out: Path | None
    trace_content: bool
    authority: Path | None
    artifact: str
    base: str | None
    profile: str
    as_json: bool
    limits: Mapping[str, Any]


def _task(asked: RunOptions) -> Transcript:
    if asked.task is not None and asked.messages:
        raise UsageError("TASK and --messages exclude each other: give one of them")
    prompt = SAMPLE_TASK if asked.task is None else asked.task
    transcript = read_messages(asked.messages) if asked.messages else read_prompt(prompt)
    if not transcript.messages[-1].text.strip():
        raise UsageError("the task is empty: say what is to be done")
    return transcript


def _coordinator_maker(asked: RunOptions, ctx: click.Context) -> Callable[[Router], Coordinator]:
    """What makes the coordinator once the router is loaded; whatever can be wrong before then is found here."""
    from ...pools.files import DEMO, find_pool
    from ...rules.budgets import Limits
    from ...runs.coordinator import Coordinator, TraceFile

    trace = TraceFile(asked.trace_out, asked.trace_content) if asked.trace_out else None
    if asked.authority:
        from ...pools.authority import read_authority

        _refuse_beside_authority(ctx)
        authority, policy = read_authority(asked.authority), _policy(asked)
        return partial(Coordinator.governed, authority=authority, policy=policy, live=asked.live, trace=trace)
    pool = find_pool(DEMO if asked.pool is None else asked.pool, settings.config_dir())
    return partial(
        Coordinator,
        pool=pool,
        policy=_policy(asked, {agent.name: agent.slot for agent in pool.agents}),
        limits=Limits(**asked.limits),
        environment=settings.environment(),
        live=asked.live,
        trace=trace,
    )


def _refuse_beside_authority(ctx: click.Context) -> None:
    """Refuse what the user has typed; a pool from the settings is passed over."""
    typed = click.core.ParameterSource.COMMANDLINE
    given = [name for name in ("pool", "agent", *LIMITS) if ctx.get_parameter_source(name) is typed]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise AuthorityInvalid(f"--authority brings pool and limits of its own: leave out {options}")


def _policy(asked: RunOptions, slots: dict[str, int] | None = None) -> Policy:
    from ...rules.policy import Policy

    options: dict[str, Any] = policy_options(asked.options)
    if asked.max_turns is not None:
        options["max_turns"] = asked.max_turns
    if asked.strict:
        options["fallback"] = False
    if asked.agent is not None:
        if asked.agent not in (slots or {}):
            raise PoolInvalid(f"no agent {asked.agent!r} in the pool: there are {', '.join(slots or {})}")
        options["bypass_slot"] = (slots or {})[asked.agent]
    return Policy.named(asked.policy).with_options(**options)


def _who_limits(kind: str, authority: Path | None) -> str:
    """Where the limit that a run has reached can be raised."""
    if authority:
        return f"{authority} sets that limit"
    option = next(option for option, (name, _, _) in LIMITS.items() if name.startswith(kind))
    return f"--{option.replace('_', '-')} sets that limit"


def _carry_out(coordinator: Coordinator, task: Transcript, as_json: bool) -> RunResult:
    """The run, with a live view on a terminal; Ctrl-C ends it in order."""
    from ..logs import RunLog
    from ..views.run_view import LiveView, PlainView

    if coordinator.asks_review and not (sys.stdin and sys.stdin.isatty()):
        raise UsageError("a person has to release the answer, and there is none here: run this at a terminal")

    async def carry_out() -> RunResult:
        async with coordinator:
            if as_json or coordinator.asks_review:
                return await coordinator.arun(task, sinks=[RunLog()], reviewer=_ask_for_release)
            with LiveView() if sys.stdout.isatty() else PlainView() as view:
                return await coordinator.arun(task, sinks=[view, RunLog()], on_text=view.on_text)

    return asyncio.run(carry_out())


async def _ask_for_release(request: ReviewRequest) -> Decision:
    """What the person at the terminal decides; end of input releases nothing, and Ctrl-C cancels the run."""
    from ...rules.machine import Decision
    from ..views.run_view import shown

    click.echo(shown(request.message.text), err=True)
    try:
        with interruptible():
            if click.confirm("Release this answer?", err=True):
                return Decision(True, _AT_TERMINAL)
            return Decision(False, _AT_TERMINAL, click.prompt("Why not?", default="", show_default=False, err=True))
    except click.Abort:
        await asyncio.sleep(0)  # where it was Ctrl-C, the run is cancelled here
        return Decision(False, _AT_TERMINAL, "no decision was made")


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends a prompt at once: the event loop's handler alone cancels the run, and lets the prompt wait on."""
    cancel = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if callable(cancel):
            cancel(number, frame)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, cancel)


def _print(result: RunResult, as_json: bool) -> None:
    """The result on standard output, unless the live view has shown it; what went wrong on the error stream."""
    if as_json:
        print_json(result.to_dict())
    elif result.answer is not None and not sys.stdout.isatty():
        click.echo(result.answer)
    if result.error:
        tell(Failure(result.error.message, "", result.exit_code))
