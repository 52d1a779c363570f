"""What a study would cost before anything is bought. Plain arithmetic: no model is loaded, nothing is measured here."""
