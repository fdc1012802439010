"""A state is decided in ``job/lifecycle.py``, written by ``Ledger.apply``, and only compared anywhere else."""

from __future__ import annotations

import ast

from penstock.job.lifecycle import State

DECIDES = "job/lifecycle.py"
APPLIES = {
    "execution.py", "handle.py", "heart.py", "settlement.py", "slots.py", "steering.py", "submission.py", "sweeper.py",
    "testing/frozen.py", "writer.py",
}  # fmt: skip


def _is_state(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "State"
        and node.attr in State.__members__
    )


def _is_looked_at(node: ast.AST) -> bool:
    """Whether the state is compared, matched, or the key of a table: nothing gets this state."""
    while (parent := getattr(node, "parent", None)) is not None:
        if isinstance(parent, ast.Compare | ast.MatchValue):
            return True
        if isinstance(parent, ast.Dict):
            return node in parent.keys
        if not isinstance(parent, ast.Tuple | ast.Set | ast.List):
            return False
        node = parent
    return False


def test_outside_the_lifecycle_a_state_is_only_looked_at(rooms):
    decided = [
        module.where(node)
        for module in rooms
        if module.name != DECIDES
        for node in ast.walk(module.tree)
        if _is_state(node) and not _is_looked_at(node)
    ]
    # The ledger writes what a submit means, T1: that the new row is queued.
    assert [place for place in decided if not place.startswith("ledger/")] == []


def test_transitions_are_made_by_the_constructors_of_the_lifecycle_alone(rooms):
    made = [
        module.where(node)
        for module in rooms
        if module.name != DECIDES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Transition"
    ]
    assert made == []


def test_nobody_sets_a_state(rooms):
    set_here = [
        module.where(node)
        for module in rooms
        if not module.under("ledger")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and target.attr == "state"
    ]
    assert set_here == []


def test_transitions_are_applied_by_known_rooms(rooms):
    callers = {
        module.name
        for module in rooms
        if not module.under("ledger")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("apply", "apply_many")
        and "ledger" in ast.unparse(node.func.value)
    }
    assert callers <= APPLIES
