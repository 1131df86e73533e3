"""Checks of how a trainer is built."""

import sys
from typing import Any

from ...storage.state import snapshot
from ..subject import ModelSubject, differing, model_check, untouched_global_randomness


@model_check
def building_leaves_the_world_alone(subject: ModelSubject) -> None:
    """No file is opened and no global random stream moves; one seed gives the same weights."""
    opened: list[str] = []
    active = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            active[0]
            and event in ("open", "socket.connect")
            and not str(arguments[0]).endswith((".py", ".pyc", ".so"))
        ):
            opened.append(f"{event} {arguments[0]}")

    subject.make()  # whatever is imported on first use is imported now
    sys.addaudithook(audit)
    try:
        with untouched_global_randomness("building"):
            first = subject.make()
    finally:
        active[0] = False
    assert not opened, f"building does input or output: {opened[0]}"
    assert not differing(snapshot(first), snapshot(subject.make())), (
        "the same seed builds other weights"
    )


@model_check
def optimizers_cover_all_parameters_once(subject: ModelSubject) -> None:
    """Each trainable parameter belongs to exactly one optimizer."""
    trainer = subject.make()
    assert trainer.optimizers, "self.optimizers is empty"
    names = {id(parameter): name for name, parameter in trainer.named_parameters()}
    owners: dict[int, str] = {}
    for owner, optimizer in trainer.optimizers.items():
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name = names.get(id(parameter), "a parameter that is not the trainer's")
            assert id(parameter) not in owners, (
                f"{name} belongs to {owners[id(parameter)]} and to {owner}"
            )
            owners[id(parameter)] = owner
    orphans = [
        names[id(p)] for p in trainer.parameters() if p.requires_grad and id(p) not in owners
    ]
    assert not orphans, f"no optimizer has {orphans[0]}"
