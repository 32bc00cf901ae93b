"""The optimizer of all three models."""

import keras
import tensorflow as tf
from keras import ops


class Muon(keras.optimizers.Muon):
    """Muon on the kernels of convolutions, AdamW (Loshchilov and Hutter, 2019) on all else.

    Muon (Jordan et al., 2024) replaces the momentum of a matrix by the nearest semi-orthogonal matrix; here
    the matrix of a kernel (height, width, in, out) is (height width in, out). Updates are scaled to the size
    of AdamW's (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2), so both share one rate.
    Keras's own class leaves convolutions to AdamW.
    """

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return len(variable.shape) != 4 or 1 in variable.shape[2:]  # the latter: a depthwise kernel is no matrix

    def zeropower_via_newtonschulz5(self, x, steps: int):
        """As Keras's, to rounding, in a third of its time.

        Keras multiplies x in each step by a polynomial of its Gram matrix. All these commute, so they are
        multiplied with each other first: the steps then work on square matrices of x's smaller side.
        """
        matrix = _matrix(x)
        wide = matrix.shape[0] < matrix.shape[1]
        matrix = matrix / (ops.norm(matrix) + 1e-7)
        gram = tf.matmul(matrix, matrix, transpose_a=not wide, transpose_b=wide)
        product = identity = ops.eye(gram.shape[0])
        for _ in range(steps):
            factor = self.muon_a * identity + self.muon_b * gram + self.muon_c * gram @ gram
            product = product @ factor
            gram = factor @ gram @ factor
        return ops.reshape(product @ matrix if wide else matrix @ product, x.shape)

    def lr_adjust(self, x):
        """`x`, scaled as Keras scales a matrix, to the size of AdamW's updates."""
        return ops.reshape(super().lr_adjust(_matrix(x)), x.shape)


def _matrix(kernel):
    return ops.reshape(kernel, (-1, kernel.shape[-1]))
