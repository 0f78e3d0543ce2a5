"""The recipes we ship, by name; `custom` makes one of a user's own recordings."""

from __future__ import annotations

from grf_core.training.recipes.grid_s1 import GRID_S1
from grf_core.training.recipes.ict_mmmo import ICT_MMMO
from grf_core.training.recipes.mosi import MOSI
from grf_core.training.recipes.motion import MOTION
from grf_core.training.recipes.physionet_2012 import PHYSIONET_2012
from grf_core.training.recipes.utd_mhad import UTD_MHAD

RECIPES = {recipe.name: recipe for recipe in (MOTION, UTD_MHAD, PHYSIONET_2012, GRID_S1, ICT_MMMO, MOSI)}
