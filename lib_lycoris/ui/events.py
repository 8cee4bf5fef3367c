"""What the wiring of every page needs: what an event returns, how quick ones are done, one function for many events, a component's tab."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

Update = dict[str, Any]  # as gr.update() returns it
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden"}  # of events that take no time: none waits, nothing flickers


def tab_of(component: Any) -> Any:
    """Return the tab that a component is in; the whole UI for one that is in none."""
    block = component.parent
    while not isinstance(block, (gr.Tab, gr.Blocks)):
        block = block.parent
    return block


def by_hand(component: Any) -> Callable[..., Any]:
    """Return the event of a component at which the user changes it; a change by us is none."""
    event: Callable[..., Any] = component.input if hasattr(component, "input") else component.change
    return event


def on_any(
    events: Sequence[Any], function: Callable[..., Any], inputs: Sequence[Any], outputs: Any, settle: Any = None, **options: Any
) -> None:  # fmt: skip
    """Call a function at each of several events; of many in a row at least at the last.

    Gradio 4 makes one event of all of them. Gradio 3 drops an event that comes while the one before is worked on: there ``settle``,
    or the function, is called once more behind it.
    """
    options.setdefault("show_progress", "hidden")
    if not events:
        return
    if hasattr(gr, "on"):
        gr.on(list(events), function, list(inputs), outputs, trigger_mode="always_last", **options)
        return
    for listen, others in of_one_name(events):
        event = listen(function, list(inputs), outputs, **options)
        Context.root_block.dependencies[-1]["targets"] += [other.trigger._id for other in others]
        event.then(settle or function, list(inputs), outputs, **options)


def of_one_name(events: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """Return the first of the events of each name ("input", "change"), with the others of that name: Gradio 3 can make one of them."""
    named: dict[str, list[Any]] = {}
    for event in events:
        named.setdefault(event.event_name, []).append(event)
    return [(same[0], same[1:]) for same in named.values()]
