"""Admin broadcasts: stored, sent, greeting those who come later."""
