"""Knowledge distillation as a DVC pipeline; the stages that use this package are in `stages/`."""
