"""All detectors, in the order in which they are named to people. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.detectors.autoencoder import AutoencoderParams
from models.detectors.contract import Params
from models.detectors.count import CountParams
from models.detectors.deeplog import DeepLogParams
from models.detectors.frequency import FrequencyParams
from models.detectors.loggpt import LogGPTParams
from models.detectors.ngram import NgramParams
from models.detectors.novelty import NoveltyParams
from models.detectors.rapid import RapidParams
from models.detectors.semantic import SemanticParams
from models.detectors.value import ValueParams
from models.detectors.workflow import WorkflowParams

REGISTRY: Final[Mapping[str, type[Params]]] = {
    kind.name: kind
    for kind in (
        DeepLogParams,
        LogGPTParams,
        NoveltyParams,
        NgramParams,
        CountParams,
        FrequencyParams,
        RapidParams,
        SemanticParams,
        ValueParams,
        WorkflowParams,
        AutoencoderParams,
    )
}
