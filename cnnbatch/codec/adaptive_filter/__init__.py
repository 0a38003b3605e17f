"""The adaptive filter behind the synthesis: filtering is normative, estimation the encoder's."""
