"""The response head: how a user answers an item, if it is what comes next.

Ours, not the paper's: InfoNCE tells the flow what will come, and nothing of how it is answered.
Where only what was taken is known, the answer to a sampled negative is no.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nif_jax.models.attention import attend
from nif_jax.models.embed import Mlp


class ResponseHead(nn.Module):
    """Target attention over what the decoder has made of the past, and a perceptron.

    The flow state says in D numbers where interest goes; how one item is answered hangs on the past
    events that are like it, so the item asks them itself, as in DIN, but at every position of every
    moveline. No positions: states know theirs, and rotary ones made no difference.

    Letters: S past events, P questions, H heads of d.

    Attributes:
      dim: D = H d.
      heads: H.
      width: hidden units of the perceptron.
      dropout: rate after them.
    """

    dim: int
    heads: int
    width: int
    dropout: float

    def setup(self):
        shape = (self.heads, self.dim // self.heads)
        self.query, self.value = nn.DenseGeneral(shape), nn.DenseGeneral(shape)
        # A bias of the keys would raise all scores of a question alike, which softmax does not see.
        self.key = nn.DenseGeneral(shape, use_bias=False)
        self.perceptron = Mlp((self.width, 1), self.dropout)

    def past(self, states: jax.Array) -> jax.Array:
        """[B, S, 2, H, d] keys and values of the decoder's states [B, S, D]."""
        return jnp.stack([self.key(states), self.value(states)], axis=2)

    def __call__(
        self,
        question: jax.Array,
        evidence: list[jax.Array],
        past: jax.Array,
        visible: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """[B, P] log odds that the answer is 1.

        Args:
          question: [B, P, D], the item as an event whose answer is not known.
          evidence: [B, P, D] each, what the perceptron reads beside the answer of the past.
          past: [B, S, 2, H, d], see `past`.
          visible: [B, P, S] bool, which of them a question may ask; one that may ask none reads 0
            from them.
          train: whether dropout is on.
        """
        found = attend(self.query(question), past[:, :, 0], past[:, :, 1], visible)
        x = jnp.concatenate([*evidence, found.reshape(question.shape)], axis=-1)
        return self.perceptron(x, train)[..., 0]
