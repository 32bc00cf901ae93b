"""Knowledge distillation as a DVC pipeline; the stages that use this package stand in `stages/`."""
