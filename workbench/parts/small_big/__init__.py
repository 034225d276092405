"""A small MLP beside each big one, a router that gives every row one of them or neither, and the best such routes.

Source
------
Alizadeh et al., Duo-LLM: A Framework for Studying Adaptive Computation in Large Language Models, 2024, arXiv
2410.10846.
"""

from workbench.parts.small_big.routers import ROUTER, Routers, router_maps
from workbench.parts.small_big.small import BIG, NONE, SMALL, SMALL_MLPS, SmallMlp, SmallMlps, small_mlps

__all__ = [
    "BIG",
    "NONE",
    "ROUTER",
    "SMALL",
    "SMALL_MLPS",
    "Routers",
    "SmallMlp",
    "SmallMlps",
    "router_maps",
    "small_mlps",
]
