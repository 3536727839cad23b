"""worldmodel: train, step and learn inside action-conditioned diffusion world models. C core, thin Python."""

__version__ = "0.1.0"
