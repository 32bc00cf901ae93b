"""Training in half the bits: activations and gradients in bfloat16, weights in float32.

(Micikevicius et al., "Mixed precision training", 2018; bfloat16 has the range of float32 and needs no loss scaling.)
"""

import keras
import tensorflow as tf

from distillation import cpu
from distillation.console import note

BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # any of these multiplies it without conversion


def in_precision(network: keras.Model, precision: str) -> keras.Model:
    """`network` itself for `float32`; for `mixed_bfloat16` a copy that computes in bfloat16, with float32 weights.

    Both have equal weights in the same order. A line is printed where the CPU lacks the instructions.
    """
    if precision == "float32":
        return network
    found = cpu.instructions()
    if found is not None and not found & BFLOAT16 and not tf.config.list_physical_devices("GPU"):
        note(f"precision {precision} will be slower than float32: this CPU has no instructions for bfloat16")

    def changed(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(layer.get_config() | {"dtype": precision})

    copy = keras.models.clone_model(network, clone_function=changed)
    copy.set_weights(network.get_weights())
    return copy


def in_float32(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A network's outputs in float32, in which the objective is always computed."""
    return {name: tf.cast(values, tf.float32) for name, values in outputs.items()}
