"""The variables of PhysioNet/CinC 2012: which modality each belongs to, what is junk, and how values are scaled.

Modalities follow who measures: the monitor and the chart at the bedside (vitals), the laboratory (labs), and the
scoring of consciousness (neuro). Ventilation and inspired oxygen stand with the Glasgow Coma Scale because they decide
how to read it: whoever is intubated cannot score for speech. Urine output and the daily weight are charted at the bed.

A value goes through three rules, in this order: the repairs of known slips, the plausible range (what is outside is
taken as not measured), and `(log1p(x) or x, minus typical) / spread`. Typical and spread are the median and about the
deviation over set a, rounded: 0, which stands for "not yet measured" as well, is then an ordinary value, where a raw 0
among pH values would leave nothing of their differences once frames are normalised by mean and deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    lowest: float
    """In the unit of the file, as the next: the plausible range, its ends included."""
    highest: float
    typical: float
    """After log1p where `log`, as the next."""
    spread: float
    log: bool = False
    """A heavy tail to the right."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Values of one variable from `lowest` to `highest` become `value * factor + shift`."""

    name: str
    lowest: float
    highest: float
    factor: float
    shift: float = 0.0


PATIENT = (
    Variable("Age", 0, 130, 67, 17.5),  # years
    Variable("Gender", 0, 1, 0.5, 0.5),  # 0 female, 1 male
    Variable("Height", 120, 230, 170, 11),  # cm
    Variable("Weight", 20, 350, 81, 24),  # kg
)
VITALS = (
    Variable("HR", 10, 300, 86, 18),  # per minute
    Variable("RespRate", 1, 80, 19, 5.5),  # per minute
    Variable("Temp", 25, 45, 37.1, 0.9),  # °C
    Variable("SysABP", 20, 300, 116, 24),  # mmHg, as all pressures; the arterial line first, NI for the cuff
    Variable("DiasABP", 10, 200, 58, 13),
    Variable("MAP", 10, 250, 77, 16),
    Variable("NISysABP", 20, 300, 116, 23),
    Variable("NIDiasABP", 10, 200, 56, 15),
    Variable("NIMAP", 10, 250, 75, 15),
    Variable("Urine", 0, 11_000, 4.3, 1.3, log=True),  # ml
    Variable("Weight", 20, 350, 81, 24),  # kg
)
LABS = (
    Variable("Albumin", 0.5, 8, 2.9, 0.65),  # g/dl
    Variable("ALP", 1, 5_000, 4.4, 0.7, log=True),  # U/l
    Variable("ALT", 1, 30_000, 3.8, 1.5, log=True),  # U/l
    Variable("AST", 1, 30_000, 4.2, 1.5, log=True),  # U/l
    Variable("Bilirubin", 0.05, 100, 0.64, 0.7, log=True),  # mg/dl
    Variable("BUN", 1, 300, 3.0, 0.7, log=True),  # mg/dl
    Variable("Cholesterol", 20, 1_000, 5.0, 0.3, log=True),  # mg/dl
    Variable("Creatinine", 0.05, 40, 0.69, 0.45, log=True),  # mg/dl
    Variable("Glucose", 5, 2_000, 4.9, 0.4, log=True),  # mg/dl
    Variable("HCO3", 2, 70, 23, 4.8),  # mmol/l
    Variable("HCT", 5, 75, 30.2, 5.1),  # %
    Variable("K", 1, 15, 4.1, 0.7),  # mmol/l
    Variable("Lactate", 0.1, 50, 1.1, 0.5, log=True),  # mmol/l
    Variable("Mg", 0.2, 12, 2.0, 0.4),  # mmol/l
    Variable("Na", 90, 190, 139, 5.5),  # mmol/l
    Variable("PaCO2", 5, 150, 39, 9),  # mmHg
    Variable("PaO2", 15, 700, 4.8, 0.5, log=True),  # mmHg
    Variable("pH", 6.5, 8.0, 7.38, 0.08),
    Variable("Platelets", 1, 3_000, 5.15, 0.6, log=True),  # thousands/µl
    Variable("SaO2", 20, 100, 97, 3.4),  # %
    Variable("TroponinI", 0, 500, 1.3, 1.0, log=True),  # µg/l
    Variable("TroponinT", 0, 100, 0.18, 0.6, log=True),  # µg/l
    Variable("WBC", 0, 600, 2.5, 0.5, log=True),  # thousands/µl
)
NEURO = (
    Variable("GCS", 3, 15, 13, 4),  # Glasgow Coma Scale
    Variable("MechVent", 0, 1, 0, 1),  # only ever written as 1, "is ventilated": its age says whether it still holds
    Variable("FiO2", 0.21, 1, 0.5, 0.19),  # part of oxygen in the air
)
REPAIRS = (
    Repair("pH", 65, 80, 0.1),  # the decimal point left out: 73.5
    Repair("pH", 650, 800, 0.01),  # 735
    Repair("FiO2", 21, 100, 0.01),  # in per cent
    Repair("Temp", 77, 113, 1 / 1.8, -32 / 1.8),  # in Fahrenheit; -17.8, a Fahrenheit 0, is out of range
    Repair("Height", 1.2, 2.3, 100),  # in metres
    Repair("Height", 305, 560, 1 / 2.54),  # centimetres, converted from inches once too often: 431.8 is 170
)


class Scaling:
    """The three rules over many values at once; variables are named by their position."""

    def __init__(self, variables: tuple[Variable, ...]) -> None:
        self.names = {variable.name: position for position, variable in enumerate(variables)}
        self._lowest = np.array([variable.lowest for variable in variables], np.float64)
        self._highest = np.array([variable.highest for variable in variables], np.float64)
        self._typical = np.array([variable.typical for variable in variables], np.float64)
        self._spread = np.array([variable.spread for variable in variables], np.float64)
        self._log = np.array([variable.log for variable in variables], np.bool_)
        self._repairs = [(self.names[repair.name], repair) for repair in REPAIRS if repair.name in self.names]

    def __call__(self, variable: Indices, value: Values) -> Values:
        """Scaled; NaN for what is implausible, and so counts as not measured."""
        value = value.copy()
        for position, repair in self._repairs:
            slip = (variable == position) & (value >= repair.lowest) & (value <= repair.highest)
            value[slip] = value[slip] * repair.factor + repair.shift
        plausible = (value >= self._lowest[variable]) & (value <= self._highest[variable])
        value[~plausible] = np.nan
        log = self._log[variable]
        value[log] = np.log1p(value[log])
        return (value - self._typical[variable]) / self._spread[variable]
