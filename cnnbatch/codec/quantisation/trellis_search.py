"""Trellis-coded quantisation: the encoder's search for the cheapest symbols of `cnnbatch.codec.quantisation.dependent`."""

import numpy as np

from cnnbatch.codec.entropy_coding.tables import Indexes
from cnnbatch.codec.quantisation.dependent import TrellisSettings, Values, machine
from cnnbatch.codec.quantisation.prices import dearer
from cnnbatch.codec.quantisation.quantised import QuantisedLatents
from cnnbatch.codec.quantisation.scan import Coded, scan_order, stream_symbols
from cnnbatch.codec.quantisation.viterbi import search


class TrellisQuantiser:
    """The symbols with the least bits + weighted squared error of the whole sequence."""

    def __init__(self, prices: Values, settings: TrellisSettings) -> None:
        """``prices``: see `gaussian_prices`."""
        self._settings = settings
        self._machine, self._prices = tuple(machine(settings.trellis_states)), (prices, dearer(prices[0]))

    def __call__(
        self,
        values: Values,
        indexes: Indexes,
        weights: Values,
        prediction: Values,
        *,
        means: Values | None = None,
        in_stream: Coded | None = None,
    ) -> QuantisedLatents:
        """One tile: ``values`` [a, b, M], latents in quantisation steps, and their scale ``indexes``.

        ``weights`` [M]: bits of a squared unit of error; ``prediction`` [K, 4·K]: weights of the `predict`-ed channels;
        ``means``: what is still in the ``values``, if anything; ``in_stream``: see `stream_symbols`, where it is known already.
        """
        choice = QuantisedLatents(
            np.zeros(values.shape, np.int16),
            np.zeros((*values.shape[:2], len(prediction)), np.float32),
            np.zeros(values.shape, np.uint8),
        )
        scan = scan_order(*values.shape, len(prediction))
        if in_stream is None:
            in_stream = stream_symbols(self._settings, indexes, len(prediction))
        if means is None:
            means = np.zeros_like(values)
        latents = values, means, indexes, weights, prediction
        search(latents, tuple(scan), tuple(in_stream), self._machine, self._prices, tuple(choice))
        return choice
