"""A Worker that calls a Python function. The agents answer from scripts, so this runs as it is."""

from trinity_mlx import Agent, Coordinator, Pool, load_router


def warmth(city: str) -> str:
    """Says how warm it is in a city."""
    return f"21 degrees in {city}"


REPLIES = [
    {"role": "Verifier", "text": "ACCEPT"},
    {"last": "tool", "contains": "21 degrees", "text": "It is 21 degrees in Paris."},
    {"text": "I ask the thermometer.", "tool_calls": [{"name": "warmth", "arguments": {"city": "Paris"}}]},
]
TEAM = Pool(
    "team",
    (Agent(0, "worker", "scripted", accepts=("tools",), extra={"replies": REPLIES}),),
)

with load_router("nano") as router, Coordinator(router, TEAM) as coordinator:
    result = coordinator.run("How warm is it in Paris?", tools={"warmth": warmth})

print(f"{result.status}: {result.answer}")
