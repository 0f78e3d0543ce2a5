"""Every experiment there is, by name, with its question."""

from __future__ import annotations

from grf_core.experiments.experiment import Experiment
from grf_core.experiments.questions.ablations import ablations
from grf_core.experiments.questions.compare import compare
from grf_core.experiments.questions.embedding import embedding
from grf_core.experiments.questions.learned_order import learned_order
from grf_core.experiments.questions.mosi import mosi
from grf_core.experiments.questions.orders import orders
from grf_core.experiments.questions.robustness import robustness
from grf_core.experiments.questions.scaling import scaling
from grf_core.experiments.questions.streams import ageing, gate, norm, slots

UTD_MHAD = "utd-mhad"

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "compare",
            "On the same data with the same budget: is GRF better than MulT, late fusion, concatenation and single"
            " modalities, and what does each cost?",
            UTD_MHAD,
            compare,
        ),
        Experiment("orders", "Does the order in which the modalities are fused matter?", UTD_MHAD, orders),
        Experiment("ablations", "What does each part of GRF contribute to whole samples?", UTD_MHAD, ablations),
        Experiment(
            "gate",
            "In a stream, should a closed gate keep the enriched context s' or the context h as it was, and should it"
            " begin closed?",
            UTD_MHAD,
            gate,
        ),
        Experiment("norm", "In a stream, should the block normalise before or after its layers?", UTD_MHAD, norm),
        Experiment("slots", "Does a stream gain from a context of several slots?", UTD_MHAD, slots),
        Experiment("ageing", "Does a stream gain from a context that fades with time?", UTD_MHAD, ageing),
        Experiment(
            "robustness",
            "How does the answer suffer when a stream is missing, late, lost, noisy or has only begun, and does it help"
            " to have trained with that?",
            UTD_MHAD,
            robustness,
        ),
        Experiment(
            "learned_order",
            "Can a small policy choose the order of fusion better than the best fixed order?",
            UTD_MHAD,
            learned_order,
        ),
        Experiment(
            "embedding",
            "Do the classes come apart with each fusion step, and how far does the gate open?",
            UTD_MHAD,
            embedding,
        ),
        Experiment(
            "scaling",
            "What do GRF and MulT cost as the modalities grow from 2 to 32, and the frames from 16 to 1,024?",
            UTD_MHAD,
            scaling,
        ),
        Experiment(
            "mosi",
            "On CMU-MOSI: how good is GRF in each order of text, audio and vision, and beside MulT?",
            "mosi",
            mosi,
        ),
    )
}
