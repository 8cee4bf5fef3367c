"""Apply the networks that match the model; report the ones that do not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import HostError, LycorisError
from ..models import parameter as name_of
from ..models import rows as part_rows
from ..models import split_parameter
from ..patching import Activation, Mode, Patcher, Report
from ..patching.live.layer_access import LiveParameter


def apply_fitting(patcher: Patcher, activations: Sequence[Activation], mode: Mode = "auto") -> Report:
    """Put these networks on; one that cannot be applied is left out with a sentence in the report's notes."""
    try:
        return patcher.apply(activations, mode)
    except Exception as error:  # noqa: BLE001 - found out below whose it is
        if len(activations) == 1:
            report = patcher.apply([], mode)
            report.notes.append(_sentence(activations[0], error))
            return report
    fitting, notes = [], []
    for activation in activations:
        try:
            patcher.apply([activation], mode)
            fitting.append(activation)
        except Exception as error:  # noqa: BLE001 - one bad network never costs the others their effect
            notes.append(_sentence(activation, error))
    report = patcher.apply(fitting, mode)
    report.notes.extend(notes)
    return report


def _sentence(activation: Activation, error: Exception) -> str:
    if isinstance(error, LycorisError):
        return str(error)
    return f"{activation.network.name} cannot be applied: {str(error) or type(error).__name__}"


def base_weight(patcher: Patcher, parameter: str, model: str) -> Tensor:
    """Return the weight under a canonical name, a view where one live tensor holds it, else the parts joined; raise HostError."""
    module, leaf, part = split_parameter(parameter)
    places = patcher.names.places.get(name_of(module, leaf), ())
    if not places:
        raise HostError(f"{model} has no parameter {parameter}")
    access = patcher.workspace.access
    tensors = [LiveParameter(patcher.modules[place.module], place.leaf, access).filled().detach() for place in places]
    pieces = [t.T if place.transposed else t[place.live_rows] for place, t in zip(places, tensors)]
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return whole if part is None else torch.cat([whole[rows] for rows in part_rows(part, tuple(whole.shape))])
