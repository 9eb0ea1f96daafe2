"""Who should speak next, and in which role: one decision, without a network."""

from trinity_mlx import load_router

with load_router("nano") as router:
    decision = router.route("Please write a Python function that sorts a list of dates.")

print(f"{decision.label} as {decision.role.label}")
print(f"margins: agent {decision.margins.agent:.2f}, role {decision.margins.role:.2f}")
print(f"route hash {decision.route_hash[:12]}, from {decision.token_count} tokens")
