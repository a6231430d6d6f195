"""rdd, the robust diffusion detector: CLIP features, a small head, CVaR + AUC loss under SAM (arXiv:2404.12908).

Importing the package costs nothing: torch and ray are imported by the modules that need them.
"""

__version__ = "0.1.0"
