"""What the wiring of every page needs: what an event returns, how quick ones are done, one function for many events, following work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar

import gradio as gr
from gradio.context import Context

Update = dict[str, Any]  # as gr.update() returns it
BEAT = 5.0  # seconds after which a state is told again though it is the same
State = TypeVar("State")
Yielding = TypeVar("Yielding", bound=Callable[..., Iterator[Any]])
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden"}  # of events that take no time: none waits, nothing flickers


def states(wait: Callable[[float], bool], now: Callable[[], State], pause: float) -> Iterator[State]:
    """Yield how far work is until ``wait(seconds)`` tells its end: at each change, and now and then.

    Gradio sees only at a yield that a page was closed, and gives free what has followed for it: one of few places.
    """
    shown: State | None = None
    told = 0.0
    while not wait(pause):
        found = now()
        if found != shown or time.monotonic() - told > BEAT:
            shown, told = found, time.monotonic()
            yield found


def cumulative(function: Yielding) -> Yielding:
    """Have each update of a generator hold what those before it told, where it does not tell it anew.

    Gradio 4 sends how an update differs from the one before, and its page writes that into the one before, shown or not: of several
    that reach a busy page together only the last is shown. What the user changes meanwhile must not be among the outputs. Gradio 3
    sends every update whole.
    """
    if not hasattr(gr, "on"):
        return function

    @wraps(function)
    def telling(*given: Any) -> Iterator[Any]:
        told: list[Any] = []
        for updates in function(*given):
            now = [updates] if isinstance(updates, dict) else list(updates)  # a single output's update comes alone
            told = [_both(*pair) for pair in zip(told, now)] if told else now
            made = [dict(update) if isinstance(update, dict) else update for update in told]  # Gradio 4 empties them
            yield made[0] if isinstance(updates, dict) else made

    return telling  # type: ignore[return-value]


def _both(before: Any, now: Any) -> Any:
    """Return an update that tells what two tell, the later one where both tell it; one may be a value."""
    if not isinstance(now, dict):
        return now
    return {**(before if isinstance(before, dict) else {"value": before}), **now}


def tab_of(component: Any) -> Any:
    """Return the tab that a component is in; the whole UI for one that is in none."""
    block = component.parent
    while not isinstance(block, (gr.Tab, gr.Blocks)):
        block = block.parent
    return block


def sights(component: Any) -> list[Callable[..., Any]]:
    """Return the events at which a component comes to be seen: its tab is chosen, and the page loads if it is in the first tab or in none.

    The focus alone would come too late: Gradio 3 does not draw an open list again when its choices come.
    """
    block, found = tab_of(component), []
    first = block
    if isinstance(block, gr.Tab):
        found.append(block.select)
        first = next(sibling for sibling in block.parent.children if isinstance(sibling, gr.Tab))
    if first is block:
        while block.parent is not None:
            block = block.parent
        found.append(block.load)
    return found


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
