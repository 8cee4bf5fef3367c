"""What the hosts that run a torch model in this process have in common: networks that fit go on, the others are told about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import HostError, LycorisError
from ..models import parameter as name_of
from ..models import rows as part_rows
from ..models import split_parameter
from ..patching import Activation, Mode, Patcher, Report


def apply_fitting(patcher: Patcher, activations: Sequence[Activation], mode: Mode = "auto") -> Report:
    """Put these networks on; one that does not fit is left out with a sentence in the report's notes."""
    try:
        return patcher.apply(activations, mode)
    except LycorisError as error:
        if len(activations) == 1:
            report = patcher.apply([], mode)
            report.notes.append(str(error))
            return report
    fitting, notes = [], []
    for activation in activations:
        try:
            patcher.apply([activation], mode)
            fitting.append(activation)
        except LycorisError as error:
            notes.append(str(error))
    report = patcher.apply(fitting, mode)
    report.notes.extend(notes)
    return report


def base_weight(patcher: Patcher, parameter: str, model: str) -> Tensor:
    """Return the weight under a canonical name, a view where one live tensor holds it, else the parts joined; raise HostError."""
    module, leaf, part = split_parameter(parameter)
    places = patcher.names.places.get(name_of(module, leaf), ())
    if not places:
        raise HostError(f"{model} has no parameter {parameter}")
    tensors = [getattr(patcher.modules[place.module], place.leaf).detach() for place in places]
    pieces = [t.T if place.transposed else t[place.live_rows] for place, t in zip(places, tensors)]
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return whole if part is None else torch.cat([whole[rows] for rows in part_rows(part, tuple(whole.shape))])
