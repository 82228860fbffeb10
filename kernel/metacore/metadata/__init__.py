"""What tells a client how to draw a model: the wire shapes of tables and modals, and deriving them from columns."""
