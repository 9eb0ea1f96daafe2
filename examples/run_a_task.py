"""A task taken to a verified answer by a team. This pool answers from a script; name your own to use real models."""

from trinity_mlx import Coordinator, Limits, load_router

with load_router("nano") as router, Coordinator(router, "demo", limits=Limits(provider_calls=10)) as coordinator:
    result = coordinator.run("First think about it: what is the sum of all multiples of 3 below 100?")

for turn in result.turns:
    print(f"turn {turn.turn}: {turn.agent} as {turn.role.label}: {turn.text.splitlines()[0]}")
print(f"{result.status}: {result.answer}")
