"""Generative user intent: an encoder-decoder over semantic IDs (method.md, 2.2 and 2.3).

Pre-norm blocks as in T5, with rotary in place of T5's relative positions. Letters: B batch, L
history, S encoder states (L, or L * K for flattened codes), G beams, K digits, V codes, D width.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nif_jax.data.windows import Window
from nif_jax.models.attention import KeyValue
from nif_jax.models.beam import Beams, beam_search
from nif_jax.models.cpu import over_positions
from nif_jax.models.dropout import Dropout
from nif_jax.models.embed import ContextEmbed, embedding_init
from nif_jax.models.multi_head import Attention
from nif_jax.models.semantic_ids import SemanticIds


class FeedForward(nn.Module):
    """Norm, two layers, dropout; the residual is the caller's.

    Attributes:
      dim: D; hidden: inner width; dropout: rate; dtype: see Intent.
    """

    dim: int
    hidden: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layers(flat):
            dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)
            hidden = nn.relu(dense(self.hidden)(nn.RMSNorm(dtype=self.dtype)(flat)))
            return dense(self.dim)(hidden)

        return Dropout(self.dropout)(over_positions(layers, x), not train)


class EncoderBlock(nn.Module):
    """Self-attention over the whole history, then a feed-forward layer; fields as in Intent."""

    dim: int
    heads: int
    head_dim: int
    hidden: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, position, mask, train: bool):
        sizes = (self.dim, self.heads, self.head_dim)
        attention = Attention(*sizes, self.dtype, name="attention")
        normed = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        memory = attention.keys_values(normed, position)
        found = attention(normed, memory, mask[:, None], position)
        x = x + Dropout(self.dropout)(found, not train)
        feed = FeedForward(self.dim, self.hidden, self.dropout, self.dtype, name="feed")
        return x + feed(x, train)


class DecoderBlock(nn.Module):
    """Attention over a beam's own past, then over the encoder, then feed-forward."""

    dim: int
    heads: int
    head_dim: int
    hidden: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.norm_own, self.norm_states = (nn.RMSNorm(dtype=self.dtype) for _ in range(2))
        sizes = (self.dim, self.heads, self.head_dim, self.dtype)
        self.own, self.states = Attention(*sizes), Attention(*sizes)
        self.feed = FeedForward(self.dim, self.hidden, self.dropout, self.dtype)
        self.drop = Dropout(self.dropout)

    def memory(self, states: jax.Array, queries: int) -> jax.Array | KeyValue:
        """What `queries` queries a row attend to: encoder states, or their keys and values.

        Made once for all beams and digits.
        """
        return states if self.states.prefers_states(queries) else self.states.keys_values(states)

    def __call__(self, x, past, position, own_mask, memory, states_mask, train: bool):
        """One pass over digits x [B, G, P, D] of G sequences a row.

        Args:
          x: the digits.
          past: keys and values [B, G, K, H, d] to write into (at `position`), or None where x holds
            all digits.
          position: [P] digits of x.
          own_mask: [P, K] which digits may be seen.
          memory: of the encoder's states, see `memory`; states_mask: [B, S].
          train: whether dropout is on.

        Returns:
          x, and the past with these digits in it.
        """
        normed = self.norm_own(x)
        own = self.own.keys_values(normed, position)
        if past is not None:
            at = (0, 0, position[0], 0, 0)
            own = jax.tree.map(
                lambda old, new: jax.lax.dynamic_update_slice(old, new, at), past, own
            )
        x = x + self.drop(self.own(normed, own, own_mask, position), not train)
        # Beams of a row attend to the same states: fold them into the query axis.
        batch, beams, digits, dim = x.shape
        query = self.norm_states(x).reshape(batch, beams * digits, dim)
        over = self.states if isinstance(memory, KeyValue) else self.states.attend_states
        found = over(query, memory, states_mask[:, None])
        x = x + self.drop(found.reshape(x.shape), not train)
        return x + self.feed(x, train), own


class Intent(nn.Module):
    """p(next positive item | history), digit by digit.

    Attributes:
      num_codes: V; num_digits: K.
      num_scenes: largest scene id; num_actions: largest action id.
      dim: D; heads; head_dim: even, 0 = D / heads; hidden: width of feed-forward layers.
      encoder_layers, decoder_layers: blocks.
      dropout: rate.
      history: "item" is one token an event, the sum of its digits' embeddings and of its context;
        "flat" is one token a digit, without context (the authors' form).
      dtype: of activations and products; embeddings, and the last product, whose results are
        log-probabilities that beams are ordered by, are float32.
    """

    num_codes: int
    num_digits: int
    num_scenes: int
    num_actions: int
    dim: int
    heads: int
    head_dim: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    dropout: float
    history: str
    dtype: DTypeLike = jnp.float32

    @property
    def width(self) -> int:
        """Numbers of each head."""
        return self.head_dim or self.dim // self.heads

    def setup(self):
        shape = (self.num_digits, self.num_codes + 1, self.dim)
        self.digits = self.param("digits", embedding_init, shape)
        if self.history == "item":
            self.context = ContextEmbed(self.num_scenes, self.num_actions, self.dim)
        sizes = (self.dim, self.heads, self.width, self.hidden, self.dropout, self.dtype)
        self.encoder = [EncoderBlock(*sizes) for _ in range(self.encoder_layers)]
        self.decoder = [DecoderBlock(*sizes) for _ in range(self.decoder_layers)]
        self.norm_encoder = nn.RMSNorm(dtype=self.dtype)
        self.norm_decoder = nn.RMSNorm(dtype=jnp.float32)
        self.out = self.param(
            "out",
            nn.initializers.lecun_normal(batch_axis=0),
            (self.num_digits, self.dim, self.num_codes),
        )

    def embed(self, code: jax.Array) -> jax.Array:
        """[..., K, D] of codes [..., K] in 0..V, each digit from its own table; 0 gives 0."""
        found = self.digits[jnp.arange(self.num_digits), code]
        return found * (code > 0)[..., None]

    def encode(
        self, history: Window, ids: SemanticIds, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """States [B, S, D] of a history and their mask [B, S]."""
        tokens = self.embed(ids.code[history.item])  # [B, L, K, D]
        if self.history == "item":
            x, mask = tokens.sum(2) + self.context(history), history.mask
        else:
            x = tokens.reshape(tokens.shape[0], -1, self.dim)
            mask = jnp.repeat(history.mask, self.num_digits, axis=1)
        x = (x * self.dim**0.5).astype(self.dtype)  # embeddings start small
        position = jnp.arange(x.shape[1])
        for block in self.encoder:
            x = block(x, position, mask, train)
        return self.norm_encoder(x), mask

    def _previous(self, code: jax.Array) -> jax.Array:
        """Embeddings of the digits before each of code [..., K]; the first has none."""
        embedded = self.embed(code)[..., :-1, :] * self.dim**0.5
        shifted = jnp.concatenate([jnp.zeros_like(embedded[..., :1, :]), embedded], axis=-2)
        return shifted.astype(self.dtype)

    def log_likelihood(
        self, states: jax.Array, mask: jax.Array, code: jax.Array, train: bool = False
    ) -> jax.Array:
        """[B, K] log-probability of each digit of code [B, K] in 1..V given those before."""
        x = self._previous(code)[:, None]  # [B, 1, K, D]
        position = jnp.arange(self.num_digits)
        own = jnp.tril(jnp.ones((self.num_digits,) * 2, bool))
        for block in self.decoder:
            memory = block.memory(states, self.num_digits)
            x, _ = block(x, None, position, own, memory, mask, train)
        logits = jnp.einsum("bkd,kdv->bkv", self.norm_decoder(x)[:, 0], self.out)
        chosen = jnp.maximum(code, 1)[..., None] - 1
        return jnp.take_along_axis(nn.log_softmax(logits), chosen, axis=-1)[..., 0]

    def generate(
        self,
        states: jax.Array,
        mask: jax.Array,
        ids: SemanticIds,
        width: int,
        constrained: bool = True,
    ) -> Beams:
        """The G likeliest next items of each row; no gradient flows through the choice."""
        batch = states.shape[0]
        states = jax.lax.stop_gradient(states)
        memories = [block.memory(states, width * self.num_digits) for block in self.decoder]
        own = self.decoder[0].own
        shape = (batch, width, self.num_digits, own.heads, own.head_dim)
        empty = jnp.zeros(shape, states.dtype)
        carry = [KeyValue(empty, empty) for _ in self.decoder]

        def step(carry, code, digit):
            # The embedding of the digit before; nothing before the first.
            table = self.digits[jnp.maximum(digit - 1, 0)]
            x = table[code] * ((code > 0) * self.dim**0.5)[..., None]
            x, position, after = x[:, :, None].astype(self.dtype), digit[None], []
            own = jnp.arange(self.num_digits)[None] <= digit
            for block, past, memory in zip(self.decoder, carry, memories, strict=True):
                x, past = block(x, past, position, own, memory, mask, False)
                after.append(past)
            logits = self.norm_decoder(x)[:, :, 0] @ self.out[digit]
            return nn.log_softmax(logits), after

        found = beam_search(step, carry, ids, batch=batch, width=width, constrained=constrained)
        return jax.tree.map(jax.lax.stop_gradient, found)

    def __call__(self, history: Window, ids: SemanticIds, code: jax.Array, train: bool = False):
        """States, mask and log-likelihood of code; makes every parameter."""
        states, mask = self.encode(history, ids, train)
        return states, mask, self.log_likelihood(states, mask, code, train)
